"""The step that trains an autoencoder with continuous latents, and the state between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.methods.vae.encoding import used_parameters
from bnnkit.methods.vae.fit_losses import Loss, Trainee, fit_losses
from bnnkit.methods.vae.schedules import kl_weight
from bnnkit.spec.vae_fit import VaeFitConfig

__all__ = ["ContinuousLearner"]

_CLIP = 100.0
"""Largest gradient norm, as of other autoencoders: the loss is a sum over hundreds of pixels."""


@dataclass(eq=False)
class ContinuousLearner:
    """An autoencoder that learns from data in the units of its likelihood.

    Args:
        net: What is trained, on its device.
        config: Objective, rates, and what is frozen.
        example: Data `[n, D]` on the device, to find which parameters encode and which decode.
    """

    net: Trainee
    config: VaeFitConfig
    example: Tensor

    def __post_init__(self) -> None:
        self.seen = 0
        module = self.net.module
        named = dict(module.named_parameters())
        decoder = self.decoder_names()
        heads = [p for p in self.net.posterior.parameters() if p.requires_grad]
        weights = [] if self.net.weights is None else list(self.net.weights.parameters())
        frozen = decoder if self.config.freeze == "decoder" else set()
        for name in frozen:
            named[name].requires_grad_(False)
        learned = [p for name, p in named.items() if p.requires_grad and name not in frozen]
        self.groups = {
            "all": [*learned, *heads, *weights],
            "encoder": [p for n, p in named.items() if p.requires_grad and n not in decoder],
            "decoder": [p for n, p in named.items() if p.requires_grad and n in decoder],
            "head": heads,
        }
        self.optimiser = torch.optim.AdamW(
            self.groups["all"], lr=self.config.lr, weight_decay=self.config.weight_decay
        )

    def decoder_names(self) -> set[str]:
        """Return the names of the parameters that the decoder depends on."""
        z = self.example.new_zeros(len(self.example), self.net.model.latent)
        return used_parameters(lambda: self.net.model.decode(z), self.net.module)

    @property
    def weight(self) -> float:
        """β of the schedule, now."""
        c = self.config
        time = self.seen / self.net.data
        return kl_weight(c.kl_schedule, time, epochs=c.kl_epochs, start=c.beta0, gamma=c.gamma)

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Learn from one batch `[n, D]`."""
        # a frozen decoder keeps its running statistics too, and draws no dropout
        self.net.module.train(self.config.freeze != "decoder")
        x = x.to(self.net.device)
        weight = self.weight
        losses, figures = fit_losses(self.net, x, self.config, weight, generator)
        self.optimiser.zero_grad(set_to_none=True)
        for i, loss in enumerate(losses):
            self._backward(loss, keep=i + 1 < len(losses))
        nn.utils.clip_grad_norm_(self.groups["all"], _CLIP)
        self.optimiser.step()
        self.seen += len(x)
        return {**figures, "beta": weight}

    def _backward(self, loss: Loss, *, keep: bool) -> None:
        """Add the gradient of a loss to the parameters that it reaches."""
        inputs = self.groups[loss.reaches]
        if inputs and loss.value.requires_grad:
            torch.autograd.backward(loss.value, inputs=inputs, retain_graph=keep)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the weights, how much was seen, and the optimiser."""
        weights: dict[str, Any] = {
            "model": self.net.module.state_dict(),
            "posterior": self.net.posterior.state_dict(),
            "seen": self.seen,
        }
        if self.net.weights is not None:
            weights["weights"] = self.net.weights.state_dict()
        return weights, {"adam": self.optimiser.state_dict()}

    def restore(self, weights: dict[str, Any], optimisers: dict[str, Any]) -> None:
        """Continue from such states."""
        self.net.module.load_state_dict(weights["model"])
        self.net.posterior.load_state_dict(weights["posterior"])
        self.seen = int(weights["seen"])
        if self.net.weights is not None:
            self.net.weights.load_state_dict(weights["weights"])
        self.optimiser.load_state_dict(optimisers["adam"])
