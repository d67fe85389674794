"""Posteriors whose divergence and moments are no closed forms: they are taken over fixed draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.latent_model import log_standard_normal

__all__ = ["ByDraws"]

_DRAWS = 256
_ROWS = 4096
"""Latents that are drawn at once, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class ByDraws(Posterior):
    """A posterior known by draws, which are made of the same noise for all data.

    The noise has mean 0 and deviation 1 exactly, so that the moments of what is still a Gaussian
    of independent latents are exact, and latents that no datum moves vary over none.
    """

    closed_kl: ClassVar[bool] = False

    def kl(self) -> Tensor:
        """Return an estimate of KL(q || N(0, I)) in nats `[n]`."""
        return torch.cat([(log_q - log_standard_normal(z)).mean(0) for z, log_q in self._draws()])

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""
        moments = [(z.mean(0), z.std(0)) for z, _ in self._draws()]
        mean, sigma = (torch.cat(parts) for parts in zip(*moments, strict=True))
        return mean, sigma

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `sample` gives, for a few data after the other."""
        source = torch.Generator().manual_seed(0)
        noise = torch.randn(_DRAWS, 1, self.noise_width, generator=source)
        noise = ((noise - noise.mean(0)) / noise.std(0)).to(self.parameters()[0])
        size = max(1, _ROWS // _DRAWS)
        for i in range(0, len(self), size):
            part = self.rows(slice(i, i + size))
            yield part.sample(noise.expand(-1, len(part), -1))
