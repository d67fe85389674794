"""What the training loop and the surgery need of a method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Decision", "Method"]


@dataclass(frozen=True)
class Decision:
    """What a method decided, frozen.

    Args:
        keep: `[units]` bool.
        theta: `[units]` multiplier of each unit from here on.
        score: `[units]` the higher, the better; orders units where some must be reopened.
        reopened: Classes that would have been left empty.
        evidence: `{name: [units]}` figures for the report, such as `snr`.
    """

    keep: Tensor
    theta: Tensor
    score: Tensor
    reopened: tuple[str, ...] = ()
    evidence: dict[str, Tensor] = field(default_factory=dict)


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
