"""The posterior that an encoder gives, in any family: draws, their densities, the divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnnkit.bayes.posteriors import Posterior
from bnnkit.layers.annealed_chain import AnnealedChain, ChainPath
from bnnkit.layers.flow_posterior import FlowHead, planar_transforms
from bnnkit.layers.posterior_heads import DiagonalHead, FullHead, MatrixNormalHead
from bnnkit.methods.flows import affine_transforms
from bnnkit.methods.vae.encoding import Encoded, FeatureTap
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.objectives import Terms
from bnnkit.methods.vae.pushforward import ChainPushforward, FlowPushforward, log_extended
from bnnkit.spec.vae_fit import PosteriorSpec

__all__ = ["AmortisedPosterior", "Drawn", "terms_of", "under_posterior"]

_HIDDEN = 100
"""Width of the hidden layer of a flow's or a transition's network."""


class Drawn(NamedTuple):
    """S draws of the posterior of each of n data.

    Args:
        z: `[S, n, d]`.
        log_q: Their log densities in nats `[S, n]`; of a chain, with the reverse transitions
            taken off.
        kl: KL(q || N(0, I)) in closed form `[n]`, where there is one.
        path: The whole chain, of `hvi`.
    """

    z: Tensor
    log_q: Tensor
    kl: Tensor | None = None
    path: ChainPath | None = None


class AmortisedPosterior(nn.Module):
    """q(z | x) of one family on top of an encoder's Gaussian; it starts at or near that.

    Args:
        spec: The family.
        latent: d.
        features: Width of the encoder's features.
        seed: Seed of the weights; torch's own random state is kept.
    """

    def __init__(self, spec: PosteriorSpec, latent: int, features: int, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.latent = latent
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.head = _head(spec, latent, features, seed)

    def noise(self, n: int, samples: int, generator: torch.Generator) -> Tensor:
        """Draw the standard normal numbers of S draws of n posteriors, `[S, n, k]` on the CPU."""
        vectors = 1 + (self.spec.length if self.spec.family == "hvi" else 0)
        return torch.randn(samples, n, vectors * self.latent, generator=generator)

    def at(self, encoded: Encoded) -> Posterior:
        """Return q(z | x) of n data, of which the encoder gives this."""
        if self.spec.closed:
            q: Posterior = self.head(*encoded)
            return q
        if isinstance(self.head, AnnealedChain):
            return ChainPushforward(*encoded, self.head)
        return FlowPushforward(*encoded, self.head)

    def forward(self, encoded: Encoded, noise: Tensor, *, detach: bool = False) -> Drawn:
        """Return draws with a gradient.

        Args:
            encoded: What the encoder gives for n data.
            noise: Of `noise`.
            detach: Whether the gradient of a chain stops before each transition, for AVO.
        """
        q = self.at(encoded)
        if isinstance(q, ChainPushforward):
            path = q.walk(noise, detach=detach)
            return Drawn(path.z[-1], log_extended(path), None, path)
        z, log_q = q.sample(noise)
        return Drawn(z, log_q, q.kl() if q.closed_kl else None)


def _head(spec: PosteriorSpec, latent: int, features: int, seed: int) -> nn.Module:
    """Return what adds the family to the encoder's Gaussian."""
    if spec.family == "diag":
        return DiagonalHead()
    if spec.family == "full":
        return FullHead(features, latent)
    if spec.shape is not None:
        return MatrixNormalHead(features, *spec.shape)
    if spec.family == "hvi":
        generator = torch.Generator().manual_seed(seed)
        return AnnealedChain(latent, spec.length, _HIDDEN, context=features, generator=generator)
    if spec.family == "planar":
        return FlowHead(planar_transforms(latent, features, spec.length))
    return FlowHead(
        affine_transforms(spec.family, latent, features, spec.length, (_HIDDEN,), seed)
    )


def under_posterior(
    model: LatentModel, tap: FeatureTap, posterior: AmortisedPosterior
) -> LatentModel:
    """Return a model whose q(z | x) is a trained posterior, and no longer its encoder's Gaussian.

    Args:
        model: The model.
        tap: Its encoder, with features.
        posterior: What was trained on them.
    """

    def family(*encoded: Tensor) -> Posterior:
        return posterior.at(Encoded(*encoded))

    return replace(model, encode=tap, family=family)


def terms_of(model: LatentModel, x: Tensor, drawn: Drawn) -> Terms:
    """Return the parts of a bound.

    Args:
        model: Decoder and prior.
        x: Data `[n, D]`.
        drawn: Draws of their posteriors; their closed form counts where the prior is N(0, I).
    """
    return Terms(
        model.log_likelihood(x, drawn.z),
        model.log_prior(drawn.z),
        drawn.log_q,
        drawn.kl if model.standard_prior else None,
    )
