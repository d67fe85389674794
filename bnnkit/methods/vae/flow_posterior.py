r"""Normalising flows as posteriors, with weights of each datum's own.

.. math:: u_0 = \epsilon, \quad u_t = [u_a, u_b e^{s(u_a)} + t(u_a)], \quad
   z = m + \sigma u_T, \quad \log q(z) = \log N(\epsilon) - \sum_t \sum s - \sum \log \sigma

Half of the latents, the even and the odd ones in turn, are moved by an affine map that a small
network makes of the other half: :math:`(s, t) = W_2 \tanh(W_1 u_a + b)`, s bounded by tanh. With
W₂ = 0 it is the encoder's Gaussian: from there each datum learns its own weights, batched over
data.

References:
    Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP (2017), eqs. 7-8; Rezende
    and Mohamed, Variational inference with normalizing flows (2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bnnkit.methods.vae.by_draws import ByDraws

__all__ = ["Flow"]


@dataclass(frozen=True, eq=False)
class Flow(ByDraws):
    """Affine coupling layers over N(mean, diag sigma²); T layers of h hidden units.

    Args:
        mean: m `[n, d]`.
        log_sigma: `[n, d]`.
        first: W₁ of each layer `[n, T, h, d]`; columns of the latents that it moves are not used.
        bias: b `[n, T, h]`.
        second: W₂ `[n, T, 2, d, h]`, for s and t; rows of latents that are not moved are not used.
    """

    mean: Tensor
    log_sigma: Tensor
    first: Tensor
    bias: Tensor
    second: Tensor

    @classmethod
    def amortised(
        cls, mean: Tensor, log_sigma: Tensor, *, layers: int = 4, hidden: int = 16
    ) -> Self:
        """Return N(mean, diag sigma²) itself; W₁ starts the same for all data."""
        n, d = mean.shape
        source = torch.Generator().manual_seed(0)
        weight = torch.randn(layers, hidden, d, generator=source).to(mean) / math.sqrt(d / 2)
        return cls(
            mean,
            log_sigma,
            weight.expand(n, -1, -1, -1).clone(),
            mean.new_zeros(n, layers, hidden),
            mean.new_zeros(n, layers, 2, d, hidden),
        )

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities; see `Posterior.sample`."""
        u, log_q = noise, self._log_base(noise)
        for layer in range(self.first.shape[1]):
            s, t = self._coupling(layer, u)
            u, log_q = u * s.exp() + t, log_q - s.sum(-1)
        return self.mean + self.log_sigma.exp() * u, log_q

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats, `[s, n, d]` to `[s, n]`."""
        u = (z - self.mean) * (-self.log_sigma).exp()
        stretch = u.new_zeros(u.shape[:-1])
        for layer in reversed(range(self.first.shape[1])):
            s, t = self._coupling(layer, u)
            u, stretch = (u - t) * (-s).exp(), stretch + s.sum(-1)
        return self._log_base(u) - stretch

    def _coupling(self, layer: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t `[s, n, d]`, zero for the latents that stay."""
        d = u.shape[-1]
        moves = torch.arange(d, device=u.device) % 2 == layer % 2
        hidden = torch.einsum("nhd,snd->snh", self.first[:, layer], u * ~moves)
        out = torch.einsum(
            "nkdh,snh->ksnd", self.second[:, layer], torch.tanh(hidden + self.bias[:, layer])
        )
        return torch.tanh(out[0]) * moves, out[1] * moves

    def _log_base(self, noise: Tensor) -> Tensor:
        d = noise.shape[-1]
        volume = self.log_sigma.sum(-1) + 0.5 * d * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - volume
