r"""Families of independent proposals: Gaussians and their mixtures, around a fixed whitening.

A family works in coordinates :math:`u` with :math:`x = c + S u`: c and S come from a pilot run and
are not learned, so that one learning rate serves every target.

Draws come with weights that sum to one, so that a mixture can draw the same number from each
component and weigh it by its probability: then the gradient reaches the probabilities too.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Draws", "GaussianMixture", "Proposal", "Whitening", "gaussian"]

_LOG_2PI = math.log(2 * math.pi)


class Draws(NamedTuple):
    """Weighted draws that pass a gradient to the family's parameters.

    Args:
        x: `[n, dim]`.
        log_q: Their log densities `[n]`.
        log_weight: `[n]`; the weights sum to one.
    """

    x: Tensor
    log_q: Tensor
    log_weight: Tensor


class Proposal(Protocol):
    """A density that can be drawn from and evaluated; an `nn.Module`.

    Args:
        whitening: The fixed change of variables that it works in.
    """

    whitening: Whitening

    def draws(self, count: int, generator: torch.Generator) -> Draws:
        """Return about `count` draws with a gradient."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` independent draws `[count, dim]` without a gradient."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log densities `[n]` of `[n, dim]`."""


class Whitening(nn.Module):
    """The fixed change of variables x = centre + scale u.

    Args:
        centre: `[dim]`.
        scale: Lower triangular `[dim, dim]` with a positive diagonal.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre.detach().float().clone())
        self.register_buffer("scale", scale.detach().float().clone())

    @property
    def log_volume(self) -> Tensor:
        """Return log |det S|."""
        return self.scale.diagonal().log().sum()

    def outward(self, u: Tensor) -> Tensor:
        """Return x of u `[n, dim]`."""
        return self.centre + u @ self.scale.T

    def inward(self, x: Tensor) -> Tensor:
        """Return u of x `[n, dim]`."""
        u: Tensor = torch.linalg.solve_triangular(self.scale, (x - self.centre).T, upper=False).T
        return u


class GaussianMixture(nn.Module):
    """A mixture of K Gaussians; with K = 1 a Gaussian, diagonal or of full rank.

    Args:
        whitening: The fixed change of variables; its scale must be diagonal where `diagonal`.
        means: Where components start, in u `[k, dim]`.
        factors: Cholesky factors of their covariances at the start, in u `[k, dim, dim]`.
        logits: Logarithms of their probabilities at the start `[k]`.
        diagonal: Whether covariances stay diagonal.
    """

    def __init__(
        self,
        whitening: Whitening,
        means: Tensor,
        factors: Tensor,
        logits: Tensor,
        *,
        diagonal: bool = False,
    ) -> None:
        super().__init__()
        self.whitening = whitening
        self.means = nn.Parameter(means.detach().float().clone())
        self.log_diagonals = nn.Parameter(factors.diagonal(dim1=1, dim2=2).log().float().clone())
        self.lower = None if diagonal else nn.Parameter(factors.tril(-1).float().clone())
        self.logits = nn.Parameter(logits.detach().float().clone()) if len(logits) > 1 else None

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.means)

    def _factors(self) -> Tensor:
        """Return the Cholesky factors `[k, dim, dim]`."""
        diagonals = torch.diag_embed(self.log_diagonals.exp())
        return diagonals if self.lower is None else diagonals + self.lower.tril(-1)

    def _log_shares(self) -> Tensor:
        """Return log probabilities of the components `[k]`."""
        return self.means.new_zeros(1) if self.logits is None else self.logits.log_softmax(0)

    def draws(self, count: int, generator: torch.Generator) -> Draws:
        """Return draws with a gradient, as many from each component."""
        each = -(-count // self.count)
        dim = self.means.shape[1]
        z = torch.randn(self.count, each, dim, generator=generator)
        u = (self.means[:, None] + z @ self._factors().mT).reshape(-1, dim)
        x = self.whitening.outward(u)
        weight = self._log_shares() - math.log(each)
        return Draws(x, self.log_prob(x), weight.repeat_interleave(each))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return independent draws `[count, dim]`."""
        dim = self.means.shape[1]
        z = torch.randn(count, dim, generator=generator)
        if self.count == 1:
            return self.whitening.outward(self.means[0] + z @ self._factors()[0].T)
        shares = self._log_shares().exp()
        chosen = torch.multinomial(shares, count, replacement=True, generator=generator)
        u, factors = torch.empty_like(z), self._factors()
        for k in range(self.count):  # without a factor for each draw
            mine = chosen == k
            u[mine] = self.means[k] + z[mine] @ factors[k].T
        return self.whitening.outward(u)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log densities `[n]`."""
        dim = self.means.shape[1]
        gap = (self.whitening.inward(x) - self.means[:, None]).mT  # [k, dim, n]
        z = torch.linalg.solve_triangular(self._factors(), gap, upper=False)
        log_normal = -0.5 * (z.square().sum(1) + dim * _LOG_2PI)
        log_normal = log_normal - self.log_diagonals.sum(1, keepdim=True)
        mixed = torch.logsumexp(log_normal + self._log_shares()[:, None], dim=0)
        return mixed - self.whitening.log_volume


def gaussian(whitening: Whitening, *, diagonal: bool) -> GaussianMixture:
    """Return one Gaussian that starts as the whitening's own."""
    dim = len(whitening.centre)
    return GaussianMixture(
        whitening,
        torch.zeros(1, dim),
        torch.eye(dim)[None],
        torch.zeros(1),
        diagonal=diagonal,
    )
