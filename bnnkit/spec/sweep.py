"""Settings of `sweep`: which pruning runs are put side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bnnkit.errors import UsageError
from bnnkit.spec.config import refused
from bnnkit.spec.prune import PruneConfig, Target

__all__ = ["Cell", "SweepConfig", "parse_list"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Cell:
    """One pruning run of a sweep.

    Args:
        name: What its run directory is called.
        config: What `prune` is told.
    """

    name: str
    config: PruneConfig


@dataclass(frozen=True)
class SweepConfig:
    """Several methods, targets and seeds on one model: every combination is a cell.

    Args:
        methods: What decides, names of `bnnkit.methods.METHODS` and `RANKINGS`.
        macs: Targets: shares of the original's multiply-accumulates.
        sizes: Targets: bytes of the weights as a safetensors file.
        speedups: Targets: original / slim latency, as measured.
        error_rises: Targets: percentage points of error that may be lost on held-out data.
            With no target of any kind the unscaled evidence decides.
        seeds: Seeds of each method and target.
        base: Everything else; its method and seed are those of each cell.

    Raises:
        UsageError: A value has no meaning, there is no cell, or `base` has a target of its own.
    """

    methods: tuple[str, ...] = ("sbp",)
    macs: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    speedups: tuple[float, ...] = ()
    error_rises: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    base: PruneConfig = field(default_factory=PruneConfig)

    def __post_init__(self) -> None:
        for option, values in (("--methods", self.methods), ("--seeds", self.seeds)):
            if not values:
                raise refused(option, "", "it names nothing")
        if self.base.target or self.base.removal_seed is not None:
            raise UsageError(
                "Sweeping", "base settings with a target or a removal seed of their own",
                "each cell of a sweep has its own target and learns",
                "State targets as lists of the sweep.",
            )  # fmt: skip
        self.cells()  # a value without a meaning is refused now

    def targets(self) -> tuple[Target, ...]:
        """Return every target in the order of the options; one that aims at nothing without."""
        stated = (
            *(Target(macs=share) for share in self.macs),
            *(Target(size=size) for size in self.sizes),
            *(Target(speedup=ratio) for ratio in self.speedups),
            *(Target(error_rise=points) for points in self.error_rises),
        )
        return stated or (Target(),)

    def cells(self) -> tuple[Cell, ...]:
        """Return the runs, each once; one seed after the other.

        A sweep that is broken off has then every method and target at its first seeds.
        """
        found = {}
        for seed in self.seeds:
            train = replace(self.base.train, seed=seed)
            for method in self.methods:
                for target in self.targets():
                    name = f"{method}-{_target_name(target)}-s{seed}"
                    config = replace(self.base, method=method, train=train, target=target)
                    if self.error_rises and not target.is_budget():
                        config = replace(config, val=PruneConfig.val)  # it is for the others
                    found[name] = Cell(name, config)
        return tuple(found.values())


def _target_name(target: Target) -> str:
    """Name a target in a way that is unique and that every file system takes."""
    named = {**target.costs(), "rise": target.error_rise}
    for name, value in named.items():
        if value is not None:
            return name + repr(value).removesuffix(".0")
    return "evidence"


def parse_list(
    text: str | None, option: str, read: Callable[[str], Value], example: str
) -> tuple[Value, ...]:
    """Read values with commas between them, each once, in the order given; None gives none.

    Args:
        text: What was typed.
        option: What it was typed after.
        read: From one value's text to the value; raises ValueError where it is none.
        example: A list that can be read.

    Raises:
        UsageError: A part is empty or cannot be read.

    >>> parse_list("0.5, 0.33,0.5", "--target-macs", float, "0.5,0.33")
    (0.5, 0.33)
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    try:
        values = [read(part) for part in parts if part]
    except ValueError:
        values = []
    if len(values) < len(parts):
        raise refused(
            option, text, "it is values with commas between them", f"Use {option} {example}."
        )
    return tuple(dict.fromkeys(values))
