"""Which units go, so that a net costs what it may: the cheapest losses of score go first.

For each class the units go in the order of their score s. What is lost when units go is

    L = S log(R / (R - Σ s)),

with S the score of the whole class and R that of what is left of it: the sum of the scores to
first order, and more and more where little is left, since scores are taken one unit at a time and
the last units of a layer do the work of all. Along the order the loss L_j and the cost saved, V_j,
make a path; the next step of a class is the one with the least L per V, which is the first edge of
the path's lower convex hull. Where every unit saves alike an edge is one unit. Where time falls in
stairs (kernels work in blocks of channels) an edge ends where a stair does, so no unit is given
away for nothing. What a unit saves depends on its neighbours, so after each few steps everything
is computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bnnkit.errors import TrainingError, UsageError
from bnnkit.graph.cost import Cost
from bnnkit.graph.structure import UNGATED, Structure

__all__ = ["choose", "losses_along"]

_SHARE = 0.125
"""Share of what is still to be saved that is taken before savings are computed again."""

_REST = 1e-3
"""Share of a class's score that stays when its last unit goes, so that a class can go whole."""

_BLOCKS = (1, 4, 8, 16)
"""Widths that may take less time than those just below them, and so are tried when reopening."""


def choose(
    structure: Structure,
    score: Tensor,
    cost: Cost,
    target: float,
    *,
    per_cost: bool = True,
    round_to: int = 1,
    cumulative: bool = False,
) -> Tensor:
    """Close units until the net costs no more than the target.

    At the end whatever still fits is reopened, so that no closed unit (with `round_to`: no closed
    block) could be had back within the target. No axis is left empty.

    Args:
        structure: The channel classes.
        score: `[units]` what is lost with a unit, 0 or more; the lowest go first, and infinity
            stays whatever it costs.
        cost: What the net costs.
        target: The most that it may cost, in `cost.unit`.
        per_cost: Divide the score by what a unit saves at the time; else the score alone decides.
        round_to: Widths end at multiples of this many channels, or at the class's whole width.
        cumulative: The score of a unit is what its class has lost once the unit and all that go
            before it are gone: L itself.

    Returns:
        `[units]` bool, which stay.

    Raises:
        UsageError: The target is below the least that can be reached.
        TrainingError: A score is not a number.
    """
    score = score.detach().double().cpu()
    if bool(score.isnan().any()):
        raise TrainingError(
            "Choosing units to remove", f"{int(score.isnan().sum())} scores that are no numbers",
            "such units cannot be ordered", "Lower --lr, and train again.",
        )  # fmt: skip
    chooser = _Chooser(structure, score, cost, per_cost, round_to, cumulative)
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    while (gap := cost.total(keep) - target) > 0:
        closed = chooser.close(keep, gap * _SHARE)
        if closed is None:
            least = cost.total(keep)
            raise UsageError(
                f"Reaching {target:,.6g} {cost.unit}",
                f"{least:,.6g} {cost.unit} with everything closed that can be",
                "the rest is locked, or must keep one unit each"
                if round_to == 1
                else f"widths stay at multiples of {round_to} channels, and the rest is locked",
                "Ask for less, or let more layers go: 'bnnkit inspect' says what is locked."
                if round_to == 1
                else "Ask for less, or use a smaller --round-to.",
            )
        keep = closed
    return chooser.fill(keep, target)


@dataclass(frozen=True)
class _Steps:
    """The next steps of one class, cheapest first.

    Args:
        units: `[n]` the kept units in the order in which they would go.
        ends: `[steps]` how many of them have gone after each step.
        saved: `[steps]` cost saved by each step.
        price: `[steps]` score lost per cost saved (or per unit), ascending.
    """

    units: Tensor
    ends: Tensor
    saved: Tensor
    price: Tensor


@dataclass(frozen=True)
class _Chooser:
    structure: Structure
    score: Tensor
    cost: Cost
    per_cost: bool
    round_to: int
    cumulative: bool

    def close(self, keep: Tensor, saving: float) -> Tensor | None:
        """Return `keep` with the cheapest steps taken, at least one; None where there is none.

        Args:
            keep: `[units]` bool.
            saving: Cost after which no further step is taken.
        """
        steps = [s for s in self._all_steps(keep) if len(s.ends)]
        if not steps:
            return None
        price = torch.cat([s.price for s in steps])
        saved = torch.cat([s.saved for s in steps])
        owner = torch.cat([torch.full_like(s.ends, i) for i, s in enumerate(steps)])
        order = price.argsort(stable=True)
        sums = saved[order].cumsum(0)
        chosen = order[: max(1, int((sums <= saving).long().cumprod(0).sum()))]
        while True:
            taken = torch.bincount(owner[chosen], minlength=len(steps)).tolist()
            after = keep.clone()
            for part, count in zip(steps, taken, strict=True):
                if count:
                    after[part.units[: int(part.ends[count - 1])]] = False
            after, _ = self.structure.ensure_alive(after, self.score)
            after = self._rounded(after)
            if len(chosen) == 1 or int(after.sum()) < int(keep.sum()):
                return after
            chosen = chosen[:1]  # together they would empty an axis

    def fill(self, keep: Tensor, target: float) -> Tensor:
        """Return `keep` with the dearest losses reopened, as long as the target holds."""
        keep = keep.clone()
        candidates = list(range(len(self.structure.classes)))
        while True:
            before, best, worth = self.cost.total(keep), None, -math.inf
            for i in list(candidates):
                found = self._reopened(i, keep, before, target)
                if found is None:
                    candidates.remove(i)  # nor will it fit when more has been reopened
                elif found[1] > worth:
                    best, worth = found
            if best is None:
                return keep
            keep = best

    def _reopened(
        self, index: int, keep: Tensor, before: float, target: float
    ) -> tuple[Tensor, float] | None:
        """Return `keep` with the next units of a class that fit, and their worth; else None."""
        c, step = self.structure.classes[index], self._step(index)
        closed = c.first + (~keep[c.units]).nonzero().reshape(-1)
        closed = closed[self.score[closed].argsort(descending=True, stable=True)]
        width = c.size - len(closed)
        for block in _BLOCKS if len(closed) else ():
            units = closed[: step * block - width % (step * block)]
            wider = keep.clone()
            wider[units] = True
            if (total := self.cost.total(wider)) <= target:
                basis = max(total - before, 1e-12) if self.per_cost else len(units)
                left = c.first + wider[c.units].nonzero().reshape(-1)
                order = torch.cat([units, left[~torch.isin(left, units)]])
                return wider, float(self._lost(index, order)[len(units) - 1]) / basis
        return None

    def _all_steps(self, keep: Tensor) -> list[_Steps]:
        kept = torch.stack([keep[c.units].sum() for c in self.structure.classes])
        others = self._members.long() @ kept
        # A class may go whole where every axis that it lies on has something else left.
        last = (self._members & ((others[:, None] - kept) == 0)).any(0).tolist()
        orders = []
        for c in self.structure.classes:
            units = c.first + keep[c.units].nonzero().reshape(-1)
            orders.append(units[self.score[units].argsort(stable=True)])
        paths = self.cost.paths(keep, orders)
        parts = zip(orders, paths, last, strict=True)
        return [self._steps(i, *part) for i, part in enumerate(parts)]

    @cached_property
    def _members(self) -> Tensor:
        """Return `[axes, classes]` which classes lie on the axes that have no locked channel."""
        starts = torch.tensor([c.first for c in self.structure.classes])
        rows = {
            tuple(sorted({int(i) for i in torch.bucketize(units, starts, right=True) - 1}))
            for units in self.structure.slots.values()
            if not bool((units == UNGATED).any())
        }
        out = torch.zeros(len(rows), len(starts), dtype=torch.bool)
        for row, classes in enumerate(sorted(rows)):
            out[row, list(classes)] = True
        return out

    def _steps(self, index: int, order: Tensor, path: Tensor, last: bool) -> _Steps:
        widths = len(order) - torch.arange(1, len(order) + 1)
        allowed = (widths % self._step(index) == 0) & ((widths > 0) | (not last))
        lost = self._lost(index, order)
        ends = (allowed & lost.isfinite()).nonzero().reshape(-1) + 1
        saved, lost = path[ends - 1], lost[ends - 1]
        on = _lower_hull(saved if self.per_cost else ends.double(), lost)
        ends, saved, lost = ends[on], _differences(saved[on]), _differences(lost[on])
        basis = saved if self.per_cost else _differences(ends.double())
        return _Steps(order, ends, saved, lost / basis)

    def _lost(self, index: int, order: Tensor) -> Tensor:
        """Return the score lost when the first 1, 2 … n of a class's kept units have gone.

        Args:
            index: Of the class.
            order: `[n]` all of its kept units.
        """
        lost, c = self.score[order].clamp(min=0), self.structure.classes[index]
        if self.cumulative:
            closed = torch.ones(c.size, dtype=torch.bool)
            closed[order - c.first] = False
            gone = self.score[c.units][closed].clamp(min=0)
            return lost.cummax(0).values - (gone.max() if len(gone) else 0.0)
        whole = self.score[c.units].clamp(min=0).sum()
        return losses_along(lost, whole) if self.per_cost else lost.cumsum(0)

    def _step(self, index: int) -> int:
        """Return how many units of a class make a multiple of `round_to` channels."""
        return self.round_to // math.gcd(self.round_to, self.structure.classes[index].multiplicity)

    def _rounded(self, keep: Tensor) -> Tensor:
        if self.round_to == 1:
            return keep
        return self.structure.round_up(keep, self.score, self.round_to)


def losses_along(score: Tensor, whole: Tensor) -> Tensor:
    """Return what is lost when the first 1, 2 … n units have gone, S log(R / (R - Σ s)).

    Args:
        score: `[n]` of all units that are left, in the order in which they go.
        whole: S, the score of the whole class; where it is 0 or infinite losses just add up.
    """
    if not 0 < float(whole) < math.inf:
        return score.cumsum(0)
    # what is left after each, added up from the last unit: differences would round to below 0
    left = score.flip(0).cumsum(0).flip(0) + _REST * whole
    after = torch.cat([left[1:], _REST * whole[None]])
    return whole * torch.log(left[0] / after)


def _differences(values: Tensor) -> Tensor:
    """Return the steps between values, the first from 0."""
    return torch.diff(values, prepend=values.new_zeros(1))


def _lower_hull(x: Tensor, y: Tensor) -> Tensor:
    """Return the indices of the lower convex hull of the path from (0, 0) through (x_j, y_j).

    Args:
        x: `[n]` in any order; points that do not lie further right than all before are left out.
        y: `[n]` ascending.
    """
    front = torch.cat([x.new_zeros(1), x.cummax(0).values[:-1]])
    ahead = (x > front).nonzero().reshape(-1)
    slopes = _differences(y[ahead]) / _differences(x[ahead])
    if bool((torch.diff(slopes) >= 0).all()):
        return ahead
    hull = [(0.0, 0.0, -1)]
    for i, px, py in zip(ahead.tolist(), x[ahead].tolist(), y[ahead].tolist(), strict=True):
        while len(hull) > 1:
            (ax, ay, _), (bx, by, _) = hull[-2:]
            if (by - ay) * (px - bx) <= (py - by) * (bx - ax):
                break
            hull.pop()
        hull.append((px, py, i))
    return torch.tensor([i for _, _, i in hull[1:]])
