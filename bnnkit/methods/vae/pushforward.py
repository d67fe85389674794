r"""What a network makes of draws of an encoder's Gaussian: a flow of them, or the end of a chain.

=====  ===================================================================================
flow   :math:`\log q(z) = \log q_0(z_0) - \sum_t \log |\det \partial f_t|`, :math:`z = z_T`
chain  :math:`\log q_0(z_0) + \sum_t [\log q_t(z_t | z_{t-1}) - \log r_t(z_{t-1} | z_t)]`,
       in the extended space of all states: its mean over z_0 ... z_{T-1} given z_T is no less
       than log q(z_T), so a bound with it is one on log p(x) still
=====  ===================================================================================

References:
    D. Rezende and S. Mohamed, Variational inference with normalizing flows (2015), eq. 7;
    R. Ranganath, D. Tran, D. Blei, Hierarchical variational models (2016), eq. 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bnnkit.bayes.posteriors import Diagonal
from bnnkit.layers.annealed_chain import AnnealedChain, ChainPath
from bnnkit.methods.vae.by_draws import ByDraws

__all__ = ["ChainPushforward", "FlowPushforward", "Pushforward", "log_extended"]


@dataclass(frozen=True, eq=False)
class Pushforward(ByDraws):
    """Draws of N(mean, diag sigma²), carried on by a network that knows the encoder's features.

    Args:
        mean: `[n, d]`.
        log_sigma: `[n, d]`.
        features: `[n, f]`.
        head: The network; the same for all data, and no parameter of q.
    """

    mean: Tensor
    log_sigma: Tensor
    features: Tensor
    head: nn.Module

    has_density: ClassVar[bool] = False

    def log_prob(self, z: Tensor) -> Tensor:
        """Refuse: a density is known along the posterior's own draws.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("the density of a pushforward is known at its own draws")

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name; the network belongs to all data."""
        return {"mean": self.mean, "log_sigma": self.log_sigma, "features": self.features}

    def replace(self, tensors: list[Tensor]) -> Self:
        """Return a posterior through the same network with other `parameters()`."""
        mean, log_sigma, features = tensors
        return type(self)(mean, log_sigma, features, self.head)

    def _begin(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return draws of the Gaussian, their log densities, and the features of each."""
        z, log_q = Diagonal(self.mean, self.log_sigma).sample(noise)
        return z, log_q, self.features.expand(len(noise), *self.features.shape)


@dataclass(frozen=True, eq=False)
class FlowPushforward(Pushforward):
    """A normalising flow; its head is a `FlowHead`."""

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities; see `Posterior.sample`."""
        start, log_q, features = self._begin(noise)
        z, ladj = self.head(start.flatten(0, 1), features.flatten(0, 1))
        return z.reshape(start.shape), log_q - ladj.reshape(log_q.shape)


def log_extended(path: ChainPath) -> Tensor:
    """Return log q of all states of a chain with its way back taken off, in nats `[s, n]`."""
    return path.log_start + (path.log_forward - path.log_reverse).sum(0)


@dataclass(frozen=True, eq=False)
class ChainPushforward(Pushforward):
    """The end of a chain of T transitions; its head is an `AnnealedChain`."""

    head: AnnealedChain

    @property
    def noise_width(self) -> int:
        """Normal numbers that a draw takes: d for the start and for each transition."""
        return (1 + self.head.transitions) * self.mean.shape[-1]

    def walk(self, noise: Tensor, *, detach: bool = False) -> ChainPath:
        """Return the whole chain.

        Args:
            noise: Standard normal numbers `[s, n, (1 + T) d]`.
            detach: Whether the gradient stops before each transition, for AVO.
        """
        d = self.mean.shape[-1]
        start, log_start, features = self._begin(noise[..., :d])
        steps = torch.unflatten(noise[..., d:], -1, (-1, d)).movedim(2, 0)
        path: ChainPath = self.head(start, log_start, steps, features, detach=detach)
        return path

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return ends of walks, and log densities in the extended space."""
        path = self.walk(noise)
        return path.z[-1], log_extended(path)
