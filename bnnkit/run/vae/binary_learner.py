"""The step that trains a belief net, whichever method gives its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.methods.vae.belief import belief_model
from bnnkit.methods.vae.train_binary import BinaryTraining, training_loss
from bnnkit.spec.config import TrainConfig

__all__ = ["BinaryLearner"]

_CLIP = 100.0
"""Largest gradient norm, as of other autoencoders: the loss is a sum over hundreds of pixels."""


@dataclass(eq=False)
class BinaryLearner:
    """A belief net that learns from images, in float32.

    Args:
        module: On its device; it has `encode`, `decode` and `prior_logits`.
        training: Method, samples and refinement.
        config: Rates.
        device: Where it is.
    """

    module: nn.Module
    training: BinaryTraining
    config: TrainConfig
    device: torch.device

    def __post_init__(self) -> None:
        self.model = belief_model(self.module)
        self.optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Learn from one batch, whose grey pixels are drawn; zeros and ones stay what they are."""
        self.module.train()
        pixels = torch.bernoulli(x, generator=generator).flatten(1).to(self.device)
        seed = int(torch.randint(1 << 62, (), generator=generator))
        draws = torch.Generator(self.device).manual_seed(seed)
        parts = training_loss(self.model, pixels, draws, self.training)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(parts["loss"])
        nn.utils.clip_grad_norm_(self.module.parameters(), _CLIP)
        self.optimiser.step()
        return {name: float(value.detach()) for name, value in parts.items()}

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the weights and the optimiser."""
        return {"model": self.module.state_dict()}, {"adam": self.optimiser.state_dict()}

    def restore(self, weights: dict[str, Any], optimisers: dict[str, Any]) -> None:
        """Continue from such states."""
        self.module.load_state_dict(weights["model"])
        self.optimiser.load_state_dict(optimisers["adam"])
