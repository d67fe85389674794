"""What the training loop and the surgery need of a method that learns what to close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bnnkit.graph.structure import Structure
from bnnkit.spec.prune import PruneConfig

__all__ = ["Aim", "Decision", "Method", "Ranking", "Setting"]


@dataclass(frozen=True)
class Decision:
    """What a method decided, frozen.

    Args:
        keep: `[units]` bool.
        gate: `[units]` multiplier of each unit from here on, where it is kept.
        score: `[units]` the higher, the better; orders units where some must be reopened.
        reopened: Classes that would have been left empty.
        evidence: `{name: [units]}` figures for the report, such as `snr`.
        cumulative: A score is what its class has lost once the unit and all before it are gone.
    """

    keep: Tensor
    gate: Tensor
    score: Tensor
    reopened: tuple[str, ...] = ()
    evidence: dict[str, Tensor] = field(default_factory=dict)
    cumulative: bool = False

    @property
    def theta(self) -> Tensor:
        """The frozen gates, `[units]`: 0 where a unit is closed."""
        return self.gate * self.keep


@dataclass(frozen=True)
class Aim:
    """A cost that the decision should come down to.

    Args:
        target: Share of the full cost.
        share: Returns the share that keeping `[units]` costs.
        steps: Optimiser steps that there are to reach it.
    """

    target: float
    share: Callable[[Tensor], float]
    steps: int


@dataclass(frozen=True)
class Setting:
    """What a method starts from.

    Args:
        structure: The channel classes to decide about.
        model: The analysed model, on its device.
        config: Everything that was asked for.
        n_examples: Size of the training set, N of the ELBO.
        generator: Source of the noise, on the device.
        device: Where the model is.
        price: `[units]` what a unit costs; None where all count alike.
        aim: The cost to come down to; None lets the evidence decide.
        round_to: Widths are kept at multiples of this many channels.
    """

    structure: Structure
    model: nn.Module
    config: PruneConfig
    n_examples: int
    generator: torch.Generator
    device: torch.device
    price: Tensor | None = None
    aim: Aim | None = None
    round_to: int = 1


@dataclass(frozen=True)
class Ranking:
    """Which units of a trained model should go first; nothing says how many.

    Args:
        score: `[units]` the lowest go first.
        cumulative: As in `Decision`.
        evidence: `{name: [units]}` figures for the report.
    """

    score: Tensor
    cumulative: bool = False
    evidence: dict[str, Tensor] = field(default_factory=dict)

    def decision(self) -> Decision:
        """Return the decision that closes nothing yet."""
        everything = torch.ones_like(self.score)
        return Decision(
            everything.bool(), everything, self.score,
            evidence=self.evidence, cumulative=self.cumulative,
        )  # fmt: skip


class Method(Protocol):
    """A way to learn which units a model needs."""

    def carrier(self) -> nn.Module:
        """Return the module that holds the posterior: it is trained and checkpointed."""

    def attach(self, model: nn.Module) -> Any:  # noqa: ANN401 - a context manager
        """Put the posterior into a model until the returned attachment is detached."""

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return optimiser groups of the posterior's parameters."""

    def penalty(self, progress: float) -> Tensor:
        """Return what is added to the mean loss per example, at a share of the training."""

    def after_step(self) -> None:
        """Bring parameters back into their range."""

    def figures(self) -> dict[str, float]:
        """Return numbers for the training curve."""

    def decide(self) -> Decision:
        """Freeze the posterior into a decision."""
