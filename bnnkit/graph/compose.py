"""Put one plan after another, so that a slim model can be pruned again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bnnkit.errors import StructureError
from bnnkit.spec import ClassPlan, Plan

__all__ = ["compose"]

Slices = Mapping[str, Mapping[int, tuple[int, ...]]]


def compose(first: Plan | None, second: Plan) -> Plan:
    """Return the plan that does at once what two plans do in turn.

    Args:
        first: What made the model that was operated on; None where it was the architecture itself.
        second: What was removed from that model; its indices count what `first` left.

    Raises:
        StructureError: A class of the second plan is not what the first one left of it.
    """
    if first is None:
        return second
    slices: dict[str, dict[int, tuple[int, ...]]] = {n: dict(a) for n, a in first.slices.items()}
    for name, axes in second.slices.items():
        for axis, kept in axes.items():
            before = first.slices.get(name, {}).get(axis)
            slices.setdefault(name, {})[axis] = kept if before is None else _pick(before, kept)
    return replace(
        second,
        form="graph" if "graph" in (first.form, second.form) else "modules",
        classes=_classes(first, second),
        slices=slices,
    )


def _classes(first: Plan, second: Plan) -> tuple[ClassPlan, ...]:
    out = {c.name: c for c in first.classes}
    for c in second.classes:
        before = out.get(c.name)
        if before is None:
            out[c.name] = c
            continue
        if len(before.kept) != c.size:
            raise StructureError(
                "Pruning a slim model",
                f"class {c.name!r} with {c.size} units",
                f"the plan that made it left {len(before.kept)}",
                "Prune the original checkpoint instead.",
            )
        out[c.name] = ClassPlan(c.name, before.size, _pick(before.kept, c.kept), c.theta)
    return tuple(out.values())


def _pick(before: tuple[int, ...], kept: tuple[int, ...]) -> tuple[int, ...]:
    if kept and kept[-1] >= len(before):
        raise StructureError(
            "Pruning a slim model",
            f"index {kept[-1]}",
            f"the plan that made the model left {len(before)}",
            "Prune the original checkpoint instead.",
        )
    return tuple(before[i] for i in kept)
