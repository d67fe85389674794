r"""Distributions of all batch statistics of a net, from standard normal noise to samples.

The statistics of every batch-norm layer stand in one vector
:math:`s = (\mu_1, \log\sigma_1, \mu_2, \log\sigma_2, \ldots)` of :math:`d` numbers. A sampler
turns rows of noise into rows of such vectors; the noise is an argument, so that one graph gives
the same answer in every runtime.

=================  ====================================================  =======================
sampler            distribution                                          keeps, for n batches
=================  ====================================================  =======================
`factorised`       independent Gaussians (Atanov et al. 2019, eq. 11)    2 d
`layer-gaussian`   one joint Gaussian a layer                            d + sum of d_l min(d_l, n)
`lowrank`          one Gaussian of rank r over all layers                d + r d
`replay`           the statistics of real batches                        n d
=================  ====================================================  =======================

References:
    A. Atanov, A. Ashukha, D. Molchanov, K. Neklyudov, D. Vetrov, Uncertainty estimation via
    stochastic batch normalization (2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "Factorised",
    "LayerGaussian",
    "LowRank",
    "Replay",
    "StatisticsSampler",
    "build_sampler",
    "fit_sampler",
]


class StatisticsSampler(nn.Module):
    """What every sampler is: noise `[k, noise_size]` to statistics `[k, d]`."""

    @property
    def noise_size(self) -> int:
        """Numbers of noise that one sample needs."""
        raise NotImplementedError

    def forward(self, noise: Tensor) -> Tensor:
        """Return one vector of statistics for each row of standard normal noise."""
        raise NotImplementedError


class Factorised(StatisticsSampler):
    """Independent Gaussians with matched moments.

    Args:
        mean: `[d]`.
        deviation: `[d]`.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.mean: Tensor
        self.deviation: Tensor

    @property
    def noise_size(self) -> int:
        """One number a statistic."""
        return int(self.mean.shape[0])

    def forward(self, noise: Tensor) -> Tensor:
        """Return `mean + deviation * noise`."""
        return self.mean + self.deviation * noise


class LayerGaussian(StatisticsSampler):
    """A joint Gaussian for each layer, the layers independent.

    Args:
        mean: `[d]`.
        factors: For each layer `[r_l, d_l]`, a square root of its covariance.
    """

    def __init__(self, mean: Tensor, factors: Sequence[Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.mean: Tensor
        for i, factor in enumerate(factors):
            self.register_buffer(f"factor{i}", factor)
        self.ranks = [len(factor) for factor in factors]

    @property
    def noise_size(self) -> int:
        """The ranks of all layers together."""
        return sum(self.ranks)

    def forward(self, noise: Tensor) -> Tensor:
        """Return each layer's share of the noise times its factor, plus the mean."""
        parts = torch.split(noise, self.ranks, dim=1)
        factors = (self.get_buffer(f"factor{i}") for i in range(len(self.ranks)))
        return self.mean + torch.cat([z @ f for z, f in zip(parts, factors, strict=True)], dim=1)


class LowRank(StatisticsSampler):
    """A Gaussian over the statistics of all layers together: a few common directions, and a rest.

    The directions hold what the statistics do together, the independent rest what each does for
    itself, so that every statistic has its whole variance (a factor analysis). Without the rest
    most of the noise would be missing.

    Args:
        mean: `[d]`.
        factor: `[r, d]`; its Gram matrix is the common part of the covariance.
        residual: `[d]`, deviations of the independent rest.
    """

    def __init__(self, mean: Tensor, factor: Tensor, residual: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)
        self.register_buffer("residual", residual)
        self.mean: Tensor
        self.factor: Tensor
        self.residual: Tensor

    @property
    def noise_size(self) -> int:
        """The rank, and a number for each statistic."""
        return int(self.factor.shape[0]) + len(self.residual)

    def forward(self, noise: Tensor) -> Tensor:
        """Return mean, common part and rest for noise `[k, r + d]`, the common part's first."""
        rank = self.factor.shape[0]
        return self.mean + noise[:, :rank] @ self.factor + noise[:, rank:] * self.residual


class Replay(StatisticsSampler):
    """The empirical distribution: the joint statistics of real batches.

    The standard normal is cut into n cells of the same probability; each stands for one batch.

    Args:
        draws: `[n, d]`.

    Raises:
        IndexError: There are none.
    """

    def __init__(self, draws: Tensor) -> None:
        super().__init__()
        if not draws.numel():
            raise IndexError("no draws to replay")
        self.register_buffer("draws", draws)
        self.draws: Tensor
        # no buffer: they follow from the count, and buffers are what a file stores
        shares = torch.arange(len(draws) + 1, dtype=torch.float64) / len(draws)
        self.edges = torch.special.ndtri(shares).float()

    @property
    def noise_size(self) -> int:
        """One number, whose quantile picks the batch."""
        return 1

    def forward(self, noise: Tensor) -> Tensor:
        """Return the draw at each noise's quantile under the standard normal."""
        z, n, edges = noise[:, 0], len(self.draws), self.edges.to(noise)
        share = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
        cell = (share * n).long().clamp(0, n - 1)
        # erf is rounded otherwise in every precision and runtime, which next to an edge gives the
        # cell beside; numbers of float32 compare the same in all
        cell = cell + (z >= edges[cell + 1]).long() - (z < edges[cell]).long()
        return self.draws[cell]


def fit_sampler(
    name: str, draws: Tensor, mean: Tensor, deviation: Tensor, sizes: Sequence[int], rank: int
) -> StatisticsSampler:
    """Fit a sampler to the statistics of training batches.

    Args:
        name: One of `bnnkit.spec.noise.SAMPLERS`.
        draws: `[n, d]`, the statistics of each batch.
        mean: Their mean `[d]`.
        deviation: Their unbiased deviation `[d]`.
        sizes: Statistics of each layer; they add up to `d`.
        rank: Directions that `lowrank` keeps, at most `n - 1`.

    Raises:
        ValueError: The name is not known.
    """
    if name == "factorised":
        return Factorised(mean.float(), deviation.float())
    if name == "replay":
        return Replay(draws.float().clone())
    # rows of `root` are a square root of the unbiased covariance: root^T root = S
    root = (draws.double() - mean.double()) / math.sqrt(len(draws) - 1)
    if name == "layer-gaussian":
        factors = [
            _principal(part, len(draws) - 1) for part in torch.split(root, list(sizes), dim=1)
        ]
        return LayerGaussian(mean.float(), [f.float() for f in factors])
    if name == "lowrank":
        # directions are ranked in units of each statistic's own deviation: layers whose
        # activations are large must not take them all
        unit = torch.where(deviation > 0, deviation, 1.0).double()
        factor = _principal(root / unit, rank) * unit
        # what the directions leave of each variance; rounding may leave less than nothing
        rest = (deviation.double().square() - factor.square().sum(0)).clamp_min(0.0).sqrt()
        return LowRank(mean.float(), factor.float(), rest.float())
    raise ValueError(f"no sampler is called {name!r}")


def _principal(root: Tensor, rank: int) -> Tensor:
    """Return the leading principal axes `[r, d]` of `root^T root`, scaled by their deviations."""
    rank = min(rank, *root.shape)
    if root.shape[1] <= root.shape[0]:
        values, vectors = torch.linalg.eigh(root.T @ root)
        axes: Tensor = (vectors * values.clamp_min(0.0).sqrt()).T
        return axes.flip(0)[:rank]
    # n x n is the smaller side: with root root^T = U L U^T the axes are U^T root
    axes = torch.linalg.eigh(root @ root.T).eigenvectors.T @ root
    return axes.flip(0)[:rank]


def build_sampler(name: str, tensors: Mapping[str, Tensor]) -> StatisticsSampler:
    """Rebuild a sampler from its own `state_dict`.

    Args:
        name: One of `bnnkit.spec.noise.SAMPLERS`.
        tensors: Its buffers by name.

    Raises:
        KeyError: A buffer is missing.
        ValueError: The name is not known.
    """
    if name == "factorised":
        return Factorised(tensors["mean"], tensors["deviation"])
    if name == "layer-gaussian":
        count = sum(key.startswith("factor") for key in tensors)
        return LayerGaussian(tensors["mean"], [tensors[f"factor{i}"] for i in range(count)])
    if name == "lowrank":
        return LowRank(tensors["mean"], tensors["factor"], tensors["residual"])
    if name == "replay":
        return Replay(tensors["draws"])
    raise ValueError(f"no sampler is called {name!r}")
