r"""Exact running mean and variance: Welford's recurrence in the batched form of Chan et al.

After :math:`n` vectors the mean is :math:`m_n` and :math:`M_n = \sum (x_i - m_n)^2`. A further
block of :math:`k` vectors with mean :math:`m'` and sum of squares :math:`M'` gives

.. math::
    m_{n+k} = m_n + \delta \frac{k}{n+k}, \qquad
    M_{n+k} = M_n + M' + \delta^2 \frac{nk}{n+k}, \qquad \delta = m' - m_n.

Every observation counts the same: exponential smoothing, which the published code of stochastic
batch normalisation uses, weighs the last ones and put the deviations between .57 and 1.64 times
their value.

References:
    B. P. Welford, Note on a method for calculating corrected sums of squares and products (1962);
    T. F. Chan, G. H. Golub, R. J. LeVeque, Updating formulae and a pairwise algorithm for
    computing sample variances (1979), eq. 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RunningMoments"]


@dataclass(frozen=True)
class RunningMoments:
    """Moments of the vectors seen so far.

    Args:
        count: How many.
        mean: float64 `[d]`.
        squares: float64 `[d]`, sum of squared differences from the mean.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, size: int) -> RunningMoments:
        """Return the moments of no vector of this size."""
        return cls(0, torch.zeros(size, dtype=torch.float64), torch.zeros(size).double())

    def update(self, block: Tensor) -> RunningMoments:
        """Return the moments after `k` more vectors.

        Args:
            block: `[k, d]`.

        Raises:
            ValueError: The vectors have another size.
        """
        if block.dim() != 2 or block.shape[1:] != self.mean.shape:
            raise ValueError(f"vectors of shape {list(block.shape)} for {len(self.mean)} moments")
        if not len(block):
            return self
        x = block.detach().double().cpu()
        mean = x.mean(0)
        k, n = len(x), self.count
        delta = mean - self.mean
        return RunningMoments(
            n + k,
            self.mean + delta * (k / (n + k)),
            self.squares + (x - mean).square().sum(0) + delta.square() * (n * k / (n + k)),
        )

    def deviation(self) -> Tensor:
        """Return the unbiased standard deviation `[d]`; zero for fewer than two vectors."""
        variance = self.squares / max(1, self.count - 1)
        return variance.clamp_min(0.0).sqrt()
