"""One of two posteriors for each datum: a refined one, or where it is no better, the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bnnkit.bayes.posteriors.base import Posterior

__all__ = ["Either"]


@dataclass(frozen=True, eq=False)
class Either(Posterior):
    """`first` where `mask` is true, `second` elsewhere.

    For families that do not hold the distribution they started from: N(m, diag sigma²) is no
    matrix normal unless sigma_ij = a_i b_j.

    Args:
        first: Posteriors of n data.
        second: Posteriors of the same data.
        mask: `[n]`, boolean.
    """

    first: Posterior
    second: Posterior
    mask: Tensor

    @property
    def closed_kl(self) -> bool:  # type: ignore[override]
        """Whether `kl` is a closed form for both."""
        return self.first.closed_kl and self.second.closed_kl

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities; see `Posterior.sample`."""
        (z, log_q), (other_z, other_log_q) = self.first.sample(noise), self.second.sample(noise)
        return (
            torch.where(self.mask.unsqueeze(-1), z, other_z),
            torch.where(self.mask, log_q, other_log_q),
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats, `[s, n, d]` to `[s, n]`."""
        return torch.where(self.mask, self.first.log_prob(z), self.second.log_prob(z))

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) in nats `[n]`."""
        return torch.where(self.mask, self.first.kl(), self.second.kl())

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""
        pairs = zip(self.first.marginals(), self.second.marginals(), strict=True)
        mean, sigma = (torch.where(self.mask.unsqueeze(-1), a, b) for a, b in pairs)
        return mean, sigma

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name: `first.*`, `second.*` and `mask`."""
        parts = (("first", self.first), ("second", self.second))
        named = {f"{part}.{k}": v for part, q in parts for k, v in q.state().items()}
        return {**named, "mask": self.mask}

    def replace(self, tensors: list[Tensor]) -> Self:
        """Return a posterior of the same form with other `parameters()`."""
        size = len(self.first.parameters())
        first, second = self.first.replace(tensors[:size]), self.second.replace(tensors[size:-1])
        return type(self)(first, second, tensors[-1])
