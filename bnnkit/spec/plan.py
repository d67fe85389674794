"""A rewrite as data: which channels of which tensors stay. It can be read, diffed and replayed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bnnkit.errors import StructureError
from bnnkit.spec.model import ModelSpec
from bnnkit.spec.noise import NoisePlan

__all__ = ["PLAN_SCHEMA", "ClassPlan", "Plan", "format_ranges", "parse_ranges"]

PLAN_SCHEMA = 1


def format_ranges(indices: Iterable[int]) -> str:
    """Write ascending indices as ranges, so that a plan stays readable.

    >>> format_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def parse_ranges(text: str) -> list[int]:
    """Read what `format_ranges` wrote.

    Raises:
        StructureError: The text is not a list of ascending ranges.

    >>> parse_ranges("0-2,5")
    [0, 1, 2, 5]
    """
    out: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            run = range(int(first), int(last or first) + 1)
            if not run or (out and run[0] <= out[-1]) or run[-1] > 1 << 24:
                raise ValueError(part)
            out.extend(run)
    except ValueError as error:
        raise StructureError(
            "Reading a plan", f"the ranges {text[:80]!r}", "they are not ascending", "Use '0-3,7'."
        ) from error
    return out


@dataclass(frozen=True)
class ClassPlan:
    """What stays of one channel class.

    Args:
        name: The first layer that writes the class.
        size: Units before.
        kept: Indices of the units that stay.
        theta: Mean gate of each kept unit; already folded into the weights beside the plan.
    """

    name: str
    size: int
    kept: tuple[int, ...]
    theta: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A physical rewrite of one architecture.

    Args:
        model: The architecture that the plan belongs to.
        form: `modules` (the owner's modules were resized in place) or `graph` (the captured graph
            was rewritten as well, because the owner's code holds sizes that do not follow).
        classes: One entry for every channel class that lost units.
        slices: `{tensor name: {axis: kept indices}}`, everything that is needed to resize.
        method: What decided (`sbp`, `random`, `sbn`).
        noise: The batch-norm noise that the model carries, if any.
    """

    model: ModelSpec
    form: str = "modules"
    classes: tuple[ClassPlan, ...] = ()
    slices: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    method: str = "sbp"
    noise: NoisePlan | None = None

    def to_json(self) -> str:
        """Return the plan as JSON text, ranges in place of index lists."""
        body: dict[str, Any] = {
            "schema": PLAN_SCHEMA,
            "method": self.method,
            "form": self.form,
            "model": self.model.to_dict(),
            "classes": [
                {
                    "name": c.name,
                    "size": c.size,
                    "kept": format_ranges(c.kept),
                    "theta": list(c.theta),
                }
                for c in self.classes
            ],
            "slices": {
                name: {str(axis): format_ranges(kept) for axis, kept in axes.items()}
                for name, axes in self.slices.items()
            },
        }
        if self.noise is not None:
            body["noise"] = asdict(self.noise)
        return json.dumps(body, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan.

        Raises:
            StructureError: The text is not a plan, or a plan of another schema version.
        """
        try:
            body = json.loads(text)
            schema = body["schema"]
            if schema != PLAN_SCHEMA:
                raise StructureError(
                    "Reading a plan",
                    f"schema version {schema!r}",
                    f"this version of bnnkit reads schema {PLAN_SCHEMA}",
                    "Write the plan again with this version.",
                )
            return cls(
                model=ModelSpec.from_dict(body["model"]),
                form=str(body["form"]),
                method=str(body["method"]),
                classes=tuple(
                    ClassPlan(
                        str(c["name"]),
                        int(c["size"]),
                        tuple(parse_ranges(c["kept"])),
                        tuple(float(t) for t in c["theta"]),
                    )
                    for c in body["classes"]
                ),
                slices={
                    str(name): {int(a): tuple(parse_ranges(r)) for a, r in axes.items()}
                    for name, axes in body["slices"].items()
                },
                noise=NoisePlan.from_dict(body["noise"]) if "noise" in body else None,
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise StructureError(
                "Reading a plan",
                f"{type(error).__name__}: {error}",
                "this is not a bnnkit plan",
                "Name a plan.json or model.safetensors that bnnkit wrote.",
            ) from error
