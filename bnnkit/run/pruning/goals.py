"""What a run aims at, as a cost that a decision can be held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError
from bnnkit.graph.cost import Cost, bytes_cost, macs_cost, parameters_cost
from bnnkit.graph.structure import Structure
from bnnkit.methods.select import choose
from bnnkit.run.latency.cost import calibrate
from bnnkit.run.latency.table import LatencyCost
from bnnkit.run.progress import Progress
from bnnkit.spec.prune import PruneConfig

__all__ = ["Costs", "Goal", "Within"]

_MADE: dict[str, Callable[[nn.Module, Structure], Cost]] = {
    "macs": macs_cost,
    "params": parameters_cost,
    "size": bytes_cost,
}


class Within:
    """A cost of the original as a function of the units that earlier rounds left.

    Args:
        whole: The cost of the original.
        left: `[units left]` their indices among the original's units.
        units: How many units the original has.
    """

    def __init__(self, whole: Cost, left: Tensor, units: int) -> None:
        self.unit = whole.unit
        self.whole, self.left, self.units = whole, left, units

    def total(self, keep: Tensor) -> float:
        """Return the cost of the whole net, for `keep` `[units left]` bool."""
        return self.whole.total(self._all(keep))

    def marginal(self, keep: Tensor) -> Tensor:
        """Return `[units left]` what is saved if one more unit goes."""
        return self.whole.marginal(self._all(keep))[self.left]

    def paths(self, keep: Tensor, orders: Sequence[Tensor]) -> list[Tensor]:
        """Return for each order `[n]` what is saved when its first 1, 2 … n units have gone."""
        return self.whole.paths(self._all(keep), [self.left[order] for order in orders])

    def _all(self, keep: Tensor) -> Tensor:
        everything = torch.zeros(self.units, dtype=torch.bool)
        everything[self.left] = keep.cpu().bool()
        return everything


@dataclass(frozen=True)
class Goal:
    """A cost and the most of it that is wanted.

    Args:
        cost: Of the units that are left.
        limit: In the unit of the cost.
    """

    cost: Cost
    limit: float

    def share(self, keep: Tensor) -> float:
        """Return which share of the cost with all of them a decision leaves."""
        return self.cost.total(keep) / self.cost.total(torch.ones_like(keep))


@dataclass
class Costs:
    """Every cost of the original that a run asks for, each made once.

    Args:
        config: What is asked for.
        model: The original, on the CPU.
        structure: Its channel classes.
        progress: Who is told.
    """

    config: PruneConfig
    model: nn.Module
    structure: Structure
    progress: Progress
    _made: dict[str, Cost] = field(default_factory=dict)
    _step: int | None = None

    def named(self, name: str) -> Cost:
        """Return `macs`, `params`, `size` or `latency`, which is measured."""
        if name not in self._made:
            self._made[name] = (
                self._latency() if name == "latency" else _MADE[name](self.model, self.structure)
            )
        return self._made[name]

    def weighed(self) -> str:
        """Return the name of the cost that units are weighed by; `none` where all count alike."""
        if self.config.cost is not None:
            return self.config.cost
        if self.config.target.speedup is not None:
            return "latency"
        return "macs" if self.config.target else "none"

    def price(self, keep: Tensor) -> Tensor | None:
        """Return what each unit that is left costs, `[units left]`; None where all count alike.

        Latency falls in stairs, and a unit in the middle of one costs nothing: its price is an
        equal part of what its class costs.

        Args:
            keep: `[units]` bool, what is left.
        """
        name = self.weighed()
        if name == "none":
            return None
        cost = self.named(name)
        price = cost.marginal(keep)
        if name == "latency":
            for c in self.structure.classes:
                mine = keep.nonzero().reshape(-1)
                mine = mine[(mine >= c.first) & (mine < c.units.stop)]
                if len(mine):
                    price[mine] = float(cost.paths(keep, [mine])[0][-1]) / len(mine)
        return price[keep.cpu()]

    def goal(self, keep: Tensor) -> Goal | None:
        """Return the stated target; None where there is none.

        Args:
            keep: `[units]` bool, what is left.
        """
        target = self.config.target
        everything = torch.ones_like(keep)
        if target.macs is not None:
            cost = self.named("macs")
            return self._within("macs", keep, target.macs * cost.total(everything))
        if target.size is not None:
            return self._within("size", keep, float(target.size))
        if target.speedup is not None:
            full = self.named("latency").total(everything)
            return self._within("latency", keep, full / target.speedup)
        return None

    def closer(self, keep: Tensor, step: float) -> Goal:
        """Return the goal of spending only a share of what is spent now.

        Args:
            keep: `[units]` bool, what is left.
            step: The share.
        """
        name = self._searched()
        return self._within(name, keep, step * self.named(name).total(keep))

    def share(self, keep: Tensor) -> float:
        """Return which share of the original's cost a decision leaves, for a search."""
        cost = self.named(self._searched())
        return cost.total(keep) / cost.total(torch.ones_like(keep))

    def round_to(self) -> int:
        """Return the step of the widths; the one that pays, where that is to be measured.

        A measured step is halved until the target can be reached with it.
        """
        if self.config.round_to:
            return self.config.round_to
        if self._step is None:
            latency = self.named("latency")
            assert isinstance(latency, LatencyCost)
            self._step = latency.table.block()
            while self._step > 1 and not self._reachable(self._step):
                self._step //= 2
        return self._step

    def check_target(self, step: int) -> None:
        """Refuse a target that cannot be reached with widths at multiples of a step.

        Raises:
            UsageError: It cannot.
        """
        scores = torch.ones(self.structure.n_units)
        goal = self.goal(scores.bool())
        if goal is not None:
            choose(self.structure, scores, goal.cost, goal.limit, round_to=step)

    def _reachable(self, step: int) -> bool:
        try:
            self.check_target(step)
        except UsageError:
            return False
        return True

    def _searched(self) -> str:
        name = self.weighed()
        return "macs" if name == "none" else name

    def _within(self, name: str, keep: Tensor, limit: float) -> Goal:
        left = keep.cpu().nonzero().reshape(-1)
        return Goal(Within(self.named(name), left, len(keep)), limit)

    def _latency(self) -> LatencyCost:
        at = self.config.timed_at()
        self.progress.start(f"timing layers: {at['runtime']}, batch {at['batch']}")
        found = calibrate(
            self.model,
            self.structure,
            self.structure.input_shape,
            runtime=at["runtime"],
            device=at["device"],
            batch=int(at["batch"]),
            threads=int(at["threads"]),
        )
        self.progress.stop()
        return found
