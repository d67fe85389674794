"""Normalising flows as proposals: neural spline flows of zuko."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError
from bnnkit.methods.flows import spline_flow
from bnnkit.methods.proposals.families import Draws, Whitening

__all__ = ["SplineFlow"]


class SplineFlow(nn.Module):
    """A neural spline flow of coupling layers around a fixed whitening.

    Coupling layers cost one pass in either direction: chains draw and training evaluates.

    Args:
        whitening: The fixed change of variables.
        transforms: Spline transformations.
        hidden: Widths of their networks.
        seed: Seed of their initial weights.

    Raises:
        UsageError: zuko is not installed, or there are fewer than two coordinates.

    References:
        C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, Neural spline flows (2019).
    """

    def __init__(
        self,
        whitening: Whitening,
        *,
        transforms: int = 3,
        hidden: tuple[int, ...] = (32, 32),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dim = len(whitening.centre)
        if self.dim < 2:
            raise UsageError(
                "Building a flow",
                "one coordinate",
                "coupling layers need two or more",
                "Use --family mixture.",
            )
        self.whitening = whitening
        self.flow = spline_flow(self.dim, transforms, hidden, seed)

    def draws(self, count: int, generator: torch.Generator) -> Draws:
        """Return draws with a gradient, all of one weight."""
        z = torch.randn(count, self.dim, generator=generator)
        u, ladj = self.flow().transform.inv.call_and_ladj(z)
        log_q = _log_normal(z) - ladj - self.whitening.log_volume
        return Draws(self.whitening.outward(u), log_q, torch.full((count,), -math.log(count)))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return independent draws `[count, dim]`."""
        z = torch.randn(count, self.dim, generator=generator)
        return self.whitening.outward(self.flow().transform.inv(z))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log densities `[n]`."""
        z, ladj = self.flow().transform.call_and_ladj(self.whitening.inward(x))
        log_q: Tensor = _log_normal(z) + ladj - self.whitening.log_volume
        return log_q


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
