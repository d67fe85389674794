"""What all posteriors over latents have in common: one per datum, n at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

__all__ = ["Posterior"]


@dataclass(frozen=True, eq=False)
class Posterior(ABC):
    """Distributions q(z | datum) of n data over latents of width d; all fields are `[n, ...]`.

    Subclasses are dataclasses whose fields are the tensors to be learned. Each has a way to start
    from an encoder's N(mean, diag sigma²).
    """

    closed_kl: ClassVar[bool] = True
    """Whether `kl` is a closed form."""

    has_density: ClassVar[bool] = True
    """Whether `log_prob` knows any z, and not `sample` its own draws alone."""

    @abstractmethod
    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities.

        Args:
            noise: Standard normal numbers `[s, n, noise_width]`.

        Returns:
            z `[s, n, d]`, and log q(z) in nats `[s, n]`; both carry a gradient.
        """

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats, `[s, n, d]` to `[s, n]`, where `has_density`."""

    @abstractmethod
    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) in nats `[n]`."""

    @abstractmethod
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""

    @property
    def noise_width(self) -> int:
        """Normal numbers that a draw takes: d, as wide as the first of `parameters()`."""
        return self.parameters()[0].shape[-1]

    def centre(self) -> Tensor:
        """Return the mean of the latents `[n, d]`."""
        return self.marginals()[0]

    def parameters(self) -> list[Tensor]:
        """Return the tensors that are learned, each `[n, ...]`."""
        return list(self.state().values())

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def replace(self, tensors: list[Tensor]) -> Self:
        """Return a posterior of the same form with other `parameters()`."""
        return type(self)(*tensors)

    def leaves(self) -> Self:
        """Return a copy whose tensors are leaves that take a gradient."""
        return self.replace([t.detach().clone().requires_grad_() for t in self.parameters()])

    def detach(self) -> Self:
        """Return a copy that shares no memory and takes no gradient."""
        return self.replace([t.detach().clone() for t in self.parameters()])

    def rows(self, index: Tensor | slice) -> Self:
        """Return the posteriors of some of the data."""
        return self.replace([t[index] for t in self.parameters()])

    def where(self, mask: Tensor, other: Self) -> Self:
        """Return this where `mask` `[n]` is true, and `other` elsewhere."""
        pairs = zip(self.parameters(), other.parameters(), strict=True)
        return self.replace(
            [torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs]
        )

    def join(self, others: list[Self]) -> Self:
        """Return the posteriors of these data, followed by those of others."""
        parts = [self.parameters(), *(other.parameters() for other in others)]
        return self.replace([torch.cat(tensors) for tensors in zip(*parts, strict=True)])

    def __len__(self) -> int:
        return len(self.parameters()[0])
