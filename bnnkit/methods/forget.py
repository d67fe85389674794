"""Noise in the weights makes a warm start forget what it was trained on.

Reference:
    Ash and Adams 2020, "On Warm-Starting Neural Network Training", section 5.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["disturb"]


@torch.no_grad()
def disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Add noise to every matrix and filter of a model, with the deviation of its own weights.

    Args:
        model: Changed in place.
        generator: Source of the noise, on the CPU.
    """
    for parameter in model.parameters():
        if parameter.dim() > 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter) * parameter.std())
