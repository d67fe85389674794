"""The refinement by natural steps as an iteration of three graphs, for serving."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnkit.bayes.posteriors import Diagonal, Posterior
from bnnkit.io.onnx_loop import Iteration
from bnnkit.methods.vae.curvature import inverse_by_products, precision_at_once
from bnnkit.methods.vae.families import start
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.natural import fit_spread
from bnnkit.methods.vae.noise import balanced
from bnnkit.methods.vae.optimisers import bound_samples, natural_iteration
from bnnkit.run.vae.setup import VaeBench
from bnnkit.spec.vae_refine import RefineConfig

__all__ = ["refinement"]


class _Part(nn.Module):
    """What the parts of the iteration share.

    Args:
        model: The autoencoder.
        like: A posterior of the family.
        module: The net, so that its weights belong to the part.
    """

    def __init__(self, model: LatentModel, like: Posterior, module: nn.Module) -> None:
        super().__init__()
        self.inner, self._model, self._like = module, model, like


class _Start(_Part):
    """Data to the precision and the first posterior."""

    def __init__(
        self, model: LatentModel, like: Posterior, module: nn.Module, family: str
    ) -> None:
        super().__init__(model, like, module)
        self._family = family

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, log_sigma = self._model.encode(x)
        precision = precision_at_once(self._model, mean, log_sigma.exp())
        amortised = start(self._family, Diagonal(mean, log_sigma))
        q = fit_spread(amortised, precision)
        covariance = inverse_by_products(precision)
        return (precision, covariance, mean, log_sigma, *q.parameters())


class _Step(_Part):
    """One natural step."""

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        rate: Tensor,
        precision: Tensor,
        covariance: Tensor,
        mean: Tensor,
        log_sigma: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        q = self._like.replace(list(state))
        q, _ = natural_iteration(self._model, x, q, precision, covariance, balanced(noise), rate)
        return tuple(q.parameters())


class _Finish(_Part):
    """The bounds of the encoder's and of the refined posterior under the last draws, and both."""

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        precision: Tensor,
        covariance: Tensor,
        mean: Tensor,
        log_sigma: Tensor,
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        noise = balanced(noise)
        refined = self._like.replace(list(states[len(states) // 2 :]))
        amortised = Diagonal(mean, log_sigma)
        before = bound_samples(self._model, x, amortised, noise).mean(0)
        after = bound_samples(self._model, x, refined, noise).mean(0)
        return (before, after, mean, log_sigma, *refined.parameters())


def refinement(bench: VaeBench, config: RefineConfig) -> tuple[Iteration, Tensor]:
    """Return the refinement as an iteration that can be exported, and the rates of its steps.

    Args:
        bench: The autoencoder; its weights must take no gradient.
        config: The refinement, by natural steps.
    """
    mean = torch.zeros(2, bench.model.latent)
    like = start(config.family, Diagonal(mean, mean))
    names = tuple(like.state())
    model, module = bench.model, bench.auto.module
    iteration = Iteration(
        _Start(model, like, module, config.family),
        _Step(model, like, module),
        _Finish(model, like, module),
        ("precision", "covariance", "amortised_mean", "amortised_log_sigma"),
        names,
        (
            *("bound_before", "bound_after", "encoder_mean", "encoder_log_sigma"),
            *(f"refined_{name}" for name in names),
        ),
    )
    falling = 1 - torch.arange(config.steps) / max(config.steps, 1)
    return iteration, config.rate * falling
