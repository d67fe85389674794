"""A triangular factor of a covariance over channels, one for each group of a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.bayes.matrix_normal import lower_factor, precision_diagonal, row_variance, whiten

__all__ = ["LARGEST_FACTOR", "TriangularFactor"]

LARGEST_FACTOR = 4096
"""Over more channels than this (64 MiB of float32) a factor is diagonal."""

_CONVOLVE = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class TriangularFactor(nn.Module):
    """A lower-triangular A with an exponential diagonal, one for each group: A = diag(eᵃ)(I + L).

    `clip` has to follow every step of an optimiser: it takes out what the step has put on and
    above the diagonal of L. Masking L at each use would cost a sixth of a training step.

    Args:
        groups: Number of groups, g.
        size: Channels of one group, n.
        init_log_scale: Where a starts; L starts at 0.
        like: A tensor of the dtype and on the device that the parameters shall have.
    """

    def __init__(self, groups: int, size: int, init_log_scale: float, like: Tensor) -> None:
        super().__init__()
        self.log_diagonal = nn.Parameter(like.new_full((groups, size), init_log_scale))
        triangular = 1 < size <= LARGEST_FACTOR
        self.lower = nn.Parameter(like.new_zeros(groups, size, size)) if triangular else None

    @torch.no_grad()
    def clip(self, low: float, high: float) -> None:
        """Keep a within a range, and L strictly lower triangular."""
        self.log_diagonal.clamp_(low, high)
        if self.lower is not None:
            self.lower.tril_(-1)

    def variance(self) -> Tensor:
        """Return the diagonal of AAᵀ, `[g, n]`."""
        if self.lower is None:
            return torch.exp(2.0 * self.log_diagonal)
        return row_variance(self.lower, self.log_diagonal)

    def precision(self) -> Tensor:
        """Return the diagonal of (AAᵀ)⁻¹, float64 `[g, n]`."""
        if self.lower is None:
            return torch.exp(-2.0 * self.log_diagonal.double())
        return precision_diagonal(self._matrix())

    def whiten(self, x: Tensor) -> Tensor:
        """Return A⁻¹x in float64, for `x` `[g, K, n, k]`."""
        if self.lower is None:
            return x.double() * torch.exp(-self.log_diagonal.double())[:, None, :, None]
        return whiten(self._matrix().unsqueeze(1), x.double())

    def _matrix(self) -> Tensor:
        assert self.lower is not None
        return lower_factor(self.lower.double(), self.log_diagonal.double())

    def mix(self, x: Tensor, *, spatial: bool, transposed: bool = False) -> Tensor:
        """Return A times the channels of `x`, or Aᵀ times them.

        Args:
            x: `[b, g n, ...]` where spatial, else `[..., n]`.
            spatial: Whether channels are the second axis, as a convolution has it, or the last.
            transposed: Whether the factor is Aᵀ.
        """
        scale = self.log_diagonal.exp().reshape(-1, *([1] * (x.dim() - 2) if spatial else []))
        if self.lower is None:
            return x * scale
        # diag(eᵃ) is applied to activations: they are fewer than the entries of A
        if transposed:
            x = x * scale
            return x + _times(self.lower.mT, x, spatial=spatial)
        return (x + _times(self.lower, x, spatial=spatial)) * scale


def _times(matrix: Tensor, x: Tensor, *, spatial: bool) -> Tensor:
    """Return the product of each group's matrix `[g, n, n]` with the channels of `x`."""
    groups, size, _ = matrix.shape
    if not spatial:
        return F.linear(x, matrix.reshape(size, size))
    weight = matrix.reshape(groups * size, size, *[1] * (x.dim() - 2))
    return _CONVOLVE[x.dim()](x, weight, groups=groups)
