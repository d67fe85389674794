r"""Gaussian posteriors around the weights of a linear or convolutional layer.

The means are the layer's own weights; a carrier holds the rest, in blocks [g, m, n, K]: g groups,
each of which maps n input channels at K kernel positions to m outputs. A linear layer has g = K =
1, a depthwise convolution n = 1.

`noise` draws what the random part of the weights adds to the layer's output by local
reparametrisation (Kingma et al. 2015): the output is Gaussian given the input, so it is drawn
itself, one draw for each example and output. For a convolution every output position has its exact
distribution over all channels; that positions share their weights is left out, as in Molchanov et
al. 2017, section 4.1. A layer used twice in one pass draws twice.

References:
    D. Kingma, T. Salimans, M. Welling, Variational dropout and the local reparameterization trick
    (2015), section 2.3; the table of `bayes/matrix_normal.py`.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from bnnkit.bayes.matrix_normal import kronecker_log_det, minkowski_log_det
from bnnkit.layers.triangular_factor import TriangularFactor

__all__ = [
    "Blocks",
    "DiagonalWeights",
    "Forms",
    "MatrixNormalDiagonalWeights",
    "MatrixNormalWeights",
    "WeightPosterior",
    "apply_weight",
]

_LEAST_VARIANCE = 1e-16  # below it, the root would have no finite gradient
_LEAST_SUM = 1e-30  # of the forms of a row without any mean


class Blocks(NamedTuple):
    """The shape of a layer's weights as blocks.

    Args:
        groups: g.
        outputs: m, outputs of one group.
        inputs: n, input channels of one group.
        kernel: K, kernel positions.
    """

    groups: int
    outputs: int
    inputs: int
    kernel: int

    @classmethod
    def of(cls, layer: nn.Module) -> Blocks:
        """Return the blocks of a linear or convolutional layer."""
        out, per_group, *kernel = cast(Tensor, layer.weight).shape
        groups = int(getattr(layer, "groups", 1))
        return cls(groups, out // groups, per_group, math.prod(kernel))


class Forms(NamedTuple):
    """μᵀ Σ⁻¹ μ of groups of weights, the means outside a group set to zero.

    Args:
        rows: Of what reads one input channel at one kernel position, `[g, 1, n, K]`.
        columns: Of what writes one output, `[g, m, 1, 1]`.
    """

    rows: Tensor
    columns: Tensor


class WeightPosterior(Protocol):
    """The random part of a layer's weights."""

    def variance(self) -> Tensor:
        """Return the marginal variance of each weight, `[g, m, n, K]`."""

    def log_det(self) -> Tensor:
        """Return the log-determinant of the covariance of all weights, or a lower bound, `[]`."""

    def forms(self, mu: Tensor) -> Forms:
        """Return how well rows and columns of the means `[g, m, n, K]` are determined."""

    def noise(self, layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the random part adds to the layer's output for the input `x`."""

    def clip(self, low: float, high: float) -> None:
        """Keep log deviations within a range."""


def apply_weight(layer: nn.Module, x: Tensor, weight: Tensor, groups: int | None = None) -> Tensor:
    """Return what the layer's own code makes of `x` with another weight and no bias.

    Stride, padding and a subclass's own forward stay what they are; the layer is not touched.

    Args:
        layer: A linear or convolutional layer.
        x: Its input.
        weight: Another weight.
        groups: Another number of groups of a convolution.
    """
    twin = copy.copy(layer)
    twin.__dict__["_parameters"] = {"weight": weight, "bias": None}
    if groups is not None:
        twin.__dict__["groups"] = groups
    return cast(Tensor, type(layer).forward(twin, x))


class DiagonalWeights(nn.Module):
    """Independent weights: W_ij ~ N(M_ij, σ_ij²).

    Args:
        layer: Whose weights these are.
        init_log_sigma: Where log σ starts.
    """

    def __init__(self, layer: nn.Module, init_log_sigma: float) -> None:
        super().__init__()
        weight = cast(Tensor, layer.weight).detach()
        self.blocks = Blocks.of(layer)
        self.log_sigma = nn.Parameter(
            torch.full_like(weight, init_log_sigma, memory_format=torch.contiguous_format)
        )

    def variance(self) -> Tensor:
        """Return σ², `[g, m, n, K]`."""
        return torch.exp(2.0 * self.log_sigma).reshape(self.blocks)

    def log_det(self) -> Tensor:
        """Return Σ log σ², `[]`."""
        return 2.0 * self.log_sigma.sum()

    def forms(self, mu: Tensor) -> Forms:
        """Return the sums of μ²/σ² over rows and columns."""
        each = mu.square() / self.variance()
        return Forms(each.sum(1, keepdim=True), each.sum((2, 3), keepdim=True))

    def noise(self, layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return sqrt(σ² * x²) ε, the product with x² by the layer's own code."""
        variance = apply_weight(layer, x.square(), torch.exp(2.0 * self.log_sigma))
        return _deviation(variance) * _normal_like(variance, generator)

    @torch.no_grad()
    def clip(self, low: float, high: float) -> None:
        """Keep log σ within a range."""
        self.log_sigma.clamp_(low, high)


class MatrixNormalWeights(nn.Module):
    """Weights with correlated inputs and correlated outputs: W = M + A X Bᵀ in each group.

    A runs over the input channels, with a scale for each kernel position (`matrix_normal`).

    Args:
        layer: Whose weights these are.
        init_log_sigma: Logarithm of the deviation that every weight starts with, uncorrelated.
    """

    def __init__(self, layer: nn.Module, init_log_sigma: float) -> None:
        super().__init__()
        weight = cast(Tensor, layer.weight).detach()
        self.blocks = b = Blocks.of(layer)
        # a weight's log deviation is a sum, over its input, its output and its position
        self.parts = 3 if b.kernel > 1 else 2
        each = init_log_sigma / self.parts
        self.inputs = TriangularFactor(b.groups, b.inputs, each, weight)
        self.outputs = TriangularFactor(b.groups, b.outputs, each, weight)
        self.log_kernel: Tensor
        if b.kernel > 1:
            self.log_kernel = nn.Parameter(weight.new_full((b.groups, b.kernel), each))
        else:
            self.register_buffer("log_kernel", weight.new_zeros(b.groups, 1))

    def variance(self) -> Tensor:
        """Return (AAᵀ)_ii a_p² (BBᵀ)_jj, `[g, m, n, K]`."""
        rows = self.inputs.variance()[:, None, :, None]
        columns = self.outputs.variance()[:, :, None, None]
        return rows * columns * torch.exp(2.0 * self.log_kernel)[:, None, None, :]

    def log_dets(self) -> Tensor:
        """Return the log-determinant of each group's covariance, `[g]`."""
        # the diagonal of A_c ⊗ diag(a)
        both = self.inputs.log_diagonal.unsqueeze(2) + self.log_kernel.unsqueeze(1)
        return kronecker_log_det(both.flatten(1), self.outputs.log_diagonal)

    def log_det(self) -> Tensor:
        """Return the log-determinant of the covariance, `[]`."""
        return self.log_dets().sum()

    @torch.no_grad()
    def forms(self, mu: Tensor) -> Forms:
        """Return M_iᵀ(BBᵀ)⁻¹M_i ((AAᵀ)⁻¹)_ii of rows and the like of columns, in float64."""
        # kernel positions are independent: each is a matrix normal of its own, [g, K, n, m]
        scaled = mu.double() * torch.exp(-self.log_kernel.double())[:, None, None, :]
        means = scaled.permute(0, 3, 2, 1)
        rows = self.outputs.whiten(means.mT).square().sum(2) * self.inputs.precision()[:, None]
        columns = self.inputs.whiten(means).square().sum(2) * self.outputs.precision()[:, None]
        return Forms(rows.mT.unsqueeze(1), columns.sum(1)[:, :, None, None])

    def noise(self, layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return sqrt(xᵀAAᵀx) Bε for every example and output position."""
        g, m, n, _ = self.blocks
        spatial = not isinstance(layer, nn.Linear)
        square = self.inputs.mix(x, spatial=spatial, transposed=True).square()
        if not spatial:
            norm = _deviation(square.sum(-1, keepdim=True))
            drawn = _normal(x, (*x.shape[:-1], m), generator)
            return norm * self.outputs.mix(drawn, spatial=False)
        kernel = cast(Tensor, layer.weight).shape[2:]
        scale = torch.exp(2.0 * self.log_kernel).reshape(g, 1, *kernel)
        square = square.reshape(len(x), g, n, *x.shape[2:]).sum(2)
        norm = _deviation(apply_weight(layer, square, scale, groups=g))
        positions = norm.shape[2:]
        drawn = _normal(x, (len(x), g * m, *positions), generator)
        mixed = self.outputs.mix(drawn, spatial=True).reshape(len(x), g, m, *positions)
        return (norm.unsqueeze(2) * mixed).flatten(1, 2)

    @torch.no_grad()
    def clip(self, low: float, high: float) -> None:
        """Keep log deviations, without what correlations add to them, within a range."""
        low, high = low / self.parts, high / self.parts
        self.inputs.clip(low, high)
        self.outputs.clip(low, high)
        self.log_kernel.clamp_(low, high)


class MatrixNormalDiagonalWeights(MatrixNormalWeights):
    """The matrix normal plus an independent part: covariance BBᵀ ⊗ AAᵀ + diag(d²).

    Args:
        layer: Whose weights these are.
        init_log_sigma: Logarithm of the deviation that every weight starts with; half of the
            variance is the matrix normal's.
    """

    def __init__(self, layer: nn.Module, init_log_sigma: float) -> None:
        each = init_log_sigma - 0.5 * math.log(2.0)
        super().__init__(layer, each)
        self.diagonal = DiagonalWeights(layer, each)

    def variance(self) -> Tensor:
        """Return (AAᵀ)_ii a_p² (BBᵀ)_jj + d², `[g, m, n, K]`."""
        return super().variance() + self.diagonal.variance()

    def log_det(self) -> Tensor:
        """Return Minkowski's lower bound of the log-determinant, taken group by group, `[]`."""
        size = self.blocks.outputs * self.blocks.inputs * self.blocks.kernel
        own = 2.0 * self.diagonal.log_sigma.reshape(self.blocks.groups, -1).sum(1)
        return minkowski_log_det(self.log_dets(), own, size).sum()

    def forms(self, mu: Tensor) -> Forms:
        """Return xy / (x + y) of both parts' forms, an upper bound of the sum's."""
        parts = zip(super().forms(mu), self.diagonal.forms(mu), strict=True)
        return Forms(*(x * (y / (x + y).clamp(min=_LEAST_SUM)) for x, y in parts))

    def noise(self, layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the sum of both parts' independent draws."""
        return super().noise(layer, x, generator) + self.diagonal.noise(layer, x, generator)

    def clip(self, low: float, high: float) -> None:
        """Keep the log deviations of both parts within a range."""
        super().clip(low, high)
        self.diagonal.clip(low, high)


def _deviation(variance: Tensor) -> Tensor:
    # fast convolutions round a sum of squares to a little below zero
    return variance.clamp(min=_LEAST_VARIANCE).sqrt()


def _normal(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    return _normal(like, tuple(like.shape), generator)
