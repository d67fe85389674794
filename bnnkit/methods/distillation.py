"""Distillation: the original's answers as a soft likelihood (Hinton, Vinyals, Dean 2015).

A label says one class; the original's answer says how the classes compare, for augmented inputs
too. The loss of an example with label y, student scores s and teacher scores t is

    (1 - w) CE(y, s) + w T² KL(softmax(t / T) ‖ softmax(s / T)),

where T² keeps the size of the gradient when T grows (section 2 of the paper). Where the original's
answer is wrong w is 0: an original that is not at home in these data is followed as far as it
knows them, and its errors are not handed on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Teacher", "soft_divergence"]


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher ‖ student) of softened answers, in nats `[b]`.

    Args:
        student: Scores `[b, classes]`.
        teacher: Scores `[b, classes]`.
        temperature: T.
    """
    mine = F.log_softmax(student / temperature, dim=1)
    other = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(mine, other, log_target=True, reduction="none").sum(1)


@dataclass(frozen=True)
class Teacher:
    """The original, which answers in eval mode and learns nothing.

    Args:
        module: The original, on the device of the student.
        weight: w, between 0 and 1.
        temperature: T.
    """

    module: nn.Module
    weight: float
    temperature: float

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """Return what the original says of a batch: its module's output."""
        return self.module.eval()(x)  # type: ignore[no-any-return]

    def blend(self, hard: Tensor, labels: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            hard: Loss of each example's label `[b]`.
            labels: Classes `[b]`.
            student: Scores `[b, classes]`.
            teacher: Scores `[b, classes]`.
        """
        weight = self.weight * (teacher.argmax(1) == labels).to(hard)
        soft = soft_divergence(student, teacher, self.temperature)
        return ((1 - weight) * hard + weight * soft).mean()
