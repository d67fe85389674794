"""The channel structure of a model: classes of channels that live or die together."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from bnnkit.errors import StructureError, UsageError, did_you_mean

__all__ = ["UNGATED", "ChannelClass", "Locked", "Structure", "matches"]

_Key = TypeVar("_Key")

UNGATED = -1
"""Unit index of a position that belongs to no removable class."""


@dataclass(frozen=True)
class ChannelClass:
    """Units with the same writers and readers; each unit is one gate.

    Args:
        name: The first layer that writes the class, unique within the structure.
        first: Index of the first unit among all units of the structure.
        size: Number of units.
        writers: Layers that make the channels, in forward order.
        readers: Layers that mix the channels: where the gate sits.
        multiplicity: Channels of the first writer that one unit stands for (more than one where a
            grouped convolution ties positions).
    """

    name: str
    first: int
    size: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    multiplicity: int = 1

    @property
    def units(self) -> slice:
        """Where the class lies among all units."""
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Locked:
    """Channels that cannot be removed, and why.

    Args:
        name: The layer that writes them.
        channels: How many.
        reason: Why, in words.
    """

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Structure:
    """Everything that gating and removal need to know of a model; it holds names, no modules.

    Args:
        classes: Removable classes, in forward order; their units are numbered through.
        locked: What is not removable.
        slots: `{(tensor name, axis): [size] unit index or UNGATED}` of every axis to slice.
        reads: `{layer: [channels in] unit index or UNGATED}`.
        input_shape: `[...]` of one input, without batch.
        note: What the analysis could not see, or empty.
    """

    classes: tuple[ChannelClass, ...]
    locked: tuple[Locked, ...]
    slots: Mapping[tuple[str, int], Tensor]
    reads: Mapping[str, Tensor]
    input_shape: tuple[int, ...]
    note: str = ""

    @property
    def n_units(self) -> int:
        """Number of gates."""
        return sum(c.size for c in self.classes)

    def kept_indices(self, keep: Tensor) -> dict[tuple[str, int], Tensor]:
        """Return the indices to keep of every axis that loses some.

        Args:
            keep: `[units]` bool.

        Raises:
            StructureError: An axis would be left empty.
        """
        padded = torch.cat([keep.cpu().bool(), torch.ones(1, dtype=torch.bool)])
        out: dict[tuple[str, int], Tensor] = {}
        for (name, axis), units in self.slots.items():
            alive = padded[units]
            if not bool(alive.any()):
                raise StructureError(
                    "Removing channels", f"axis {axis} of {name!r}", "nothing of it would be left",
                    "Keep at least one unit of each class.",
                )  # fmt: skip
            if not bool(alive.all()):
                out[name, axis] = alive.nonzero().reshape(-1)
        return out

    def ensure_alive(self, keep: Tensor, score: Tensor) -> tuple[Tensor, list[str]]:
        """Reopen the best unit wherever an axis would be left empty.

        Args:
            keep: `[units]` bool.
            score: `[units]` the higher, the better.

        Returns:
            The amended `keep`, and the names of the classes that were reopened.
        """
        keep = keep.cpu().clone()
        reopened = []
        for units in self.slots.values():
            gated = units[units != UNGATED]
            if len(gated) < len(units) or bool(keep[gated].any()):
                continue
            best = int(gated[score.cpu()[gated].argmax()])
            keep[best] = True
            reopened.append(next(c.name for c in self.classes if c.first <= best < c.units.stop))
        return keep, sorted(set(reopened))

    def round_up(self, keep: Tensor, score: Tensor, multiple: int) -> Tensor:
        """Reopen the best closed units until every class's width is a multiple.

        Args:
            keep: `[units]` bool.
            score: `[units]` the higher, the better.
            multiple: Channels; a class smaller than it stays whole.
        """
        keep = keep.cpu().clone()
        for c in self.classes:
            step = multiple // int(torch.gcd(torch.tensor(multiple), torch.tensor(c.multiplicity)))
            kept = int(keep[c.units].sum())
            want = min(c.size, -(-kept // step) * step)
            closed = score.cpu()[c.units].masked_fill(keep[c.units], -float("inf"))
            best = closed.argsort(descending=True, stable=True)[: want - kept]
            keep[c.first + best] = True
        return keep

    def narrowed(self, keep: Tensor) -> Structure:
        """Return the structure of the slim model that a decision leaves.

        Args:
            keep: `[units]` bool.
        """
        keep = keep.cpu().bool()
        alive = torch.cat([keep, torch.ones(1, dtype=torch.bool)])
        number = torch.cat([keep.long().cumsum(0) - 1, torch.tensor([UNGATED])])
        classes, first = [], 0
        for c in self.classes:
            if size := int(keep[c.units].sum()):
                classes.append(replace(c, first=first, size=size))
                first += size
        return replace(
            self,
            classes=tuple(classes),
            slots={key: number[units][alive[units]] for key, units in self.slots.items()},
            reads={key: number[units][alive[units]] for key, units in self.reads.items()},
        )

    def restrict(self, include: Sequence[str], exclude: Sequence[str]) -> Structure:
        """Lock the classes that the owner did not ask for.

        Args:
            include: Layer patterns (`*` within a dotted part, `**` across); empty means all.
            exclude: Layer patterns that win over `include`.

        Raises:
            UsageError: A pattern matches no removable class.
        """
        for pattern in (*include, *exclude):
            if not any(matches(w, [pattern]) for c in self.classes for w in c.writers):
                names = [w for c in self.classes for w in c.writers]
                raise UsageError(
                    "Choosing layers", f"the pattern {pattern!r}",
                    "no removable layer matches it", did_you_mean(pattern, names[:40]),
                )  # fmt: skip
        reasons = {}
        for c in self.classes:
            if any(matches(w, exclude) for w in c.writers):
                reasons[c.name] = "left out by --exclude"
            elif include and not any(matches(w, include) for w in c.writers):
                reasons[c.name] = "not named by --include"
        return self.without(reasons)

    def without(self, reasons: Mapping[str, str]) -> Structure:
        """Lock classes, `{class name: reason}`, and number the remaining units through."""
        table = torch.full((self.n_units + 1,), UNGATED)  # the last entry serves UNGATED itself
        kept, first = [], 0
        locked = list(self.locked)
        for c in self.classes:
            if c.name in reasons:
                locked.append(Locked(c.name, c.size * c.multiplicity, reasons[c.name]))
                continue
            table[c.units] = torch.arange(first, first + c.size)
            kept.append(replace(c, first=first))
            first += c.size
        return replace(
            self,
            classes=tuple(kept),
            locked=tuple(locked),
            slots=_gated(table, self.slots),
            reads=_gated(table, self.reads),
        )


def _gated(table: Tensor, units: Mapping[_Key, Tensor]) -> dict[_Key, Tensor]:
    """Renumber units; leave out what has no gate any more."""
    renumbered = {key: table[old] for key, old in units.items()}
    return {key: new for key, new in renumbered.items() if bool((new != UNGATED).any())}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether a dotted name matches a pattern; `*` stays within a part, `**` crosses.

    >>> matches("layer1.0.conv1", ["layer1.**"]), matches("layer1.0.conv1", ["layer1.*"])
    (True, False)
    """
    for pattern in patterns:
        parts = re.split(r"(\*\*|\*)", pattern)
        regex = "".join(
            {"**": ".*", "*": r"[^.]*"}.get(p) or fnmatch.translate(p)[4:-3] for p in parts if p
        )
        if re.fullmatch(regex, name):
            return True
    return False
