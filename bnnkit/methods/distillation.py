"""Distillation: the original's answers as a soft likelihood (Hinton, Vinyals, Dean 2015).

A label says one class; the original's answer says how the classes compare, for augmented inputs
too. The loss of an example with label y, student scores s and teacher scores t is

    (1 - w) CE(y, s) + w T² KL(softmax(t / T) ‖ softmax(s / T)),

where T² keeps the size of the gradient when T grows (section 2 of the paper). What the original
gives inside may be learned as well (`bnnkit.methods.hints`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.methods.hints import Place, hint_loss

__all__ = ["Teacher", "soft_divergence"]


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher ‖ student) of softened answers, the mean over examples in nats.

    Args:
        student: Scores `[b, classes]`.
        teacher: Scores `[b, classes]`.
        temperature: T.
    """
    mine = F.log_softmax(student / temperature, dim=1)
    other = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(mine, other, log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class Teacher:
    """The original, which answers in eval mode and learns nothing.

    Args:
        module: The original, on the device of the student.
        weight: w, between 0 and 1.
        temperature: T.
        places: Where the model is compared inside as well.
        hints: Weight of that comparison.
    """

    module: nn.Module
    weight: float
    temperature: float
    places: tuple[Place, ...] = ()
    hints: float = 0.0

    @torch.no_grad()
    def answers(self, x: Tensor) -> Any:  # noqa: ANN401
        """Return what the original says of a batch: its module's output."""
        return self.module.eval()(x)

    def blend(self, hard: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of a batch from the loss of its labels and both scores."""
        soft = soft_divergence(student, teacher, self.temperature)
        return (1 - self.weight) * hard + self.weight * soft

    def hint(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor | float:
        """Return the loss of what the model gives inside; 0 without places.

        Args:
            found: What the model gave at each place.
            wanted: What the original gave there.
        """
        return self.hints * hint_loss(self.places, found, wanted) if self.places else 0.0
