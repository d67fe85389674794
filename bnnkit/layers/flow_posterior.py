r"""A flow over the encoder's Gaussian: z = f_T ∘ ... ∘ f_1(z_0), z_0 = m + eˢ ε, given features.

.. math:: \log q(z | x) = \log N(z_0 | m, e^{2s}) - \sum_t \log |\det \partial f_t / \partial z|

A planar transformation is f(z) = z + u h(wᵀz + b) with h = tanh, and log det = log|1 + uᵀw h'|;
u, w and b are functions of the features, and u is moved along w so that wᵀu > -1, where f is
invertible (there û = u + (softplus(wᵀu) - 1 - wᵀu) w / |w|²). As softplus is not the identity at
0, a constant is taken off, so that u = 0 leaves z as it is.

References:
    D. Rezende and S. Mohamed, Variational inference with normalizing flows (2015), eqs. 10-12 and
    appendix A.1.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FlowHead", "PlanarTransform", "planar_transforms"]

_ONE = math.log(math.e - 1.0)
"""Where softplus is 1."""
_SMALL = 1e-12


class _Transform(Protocol):
    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


class PlanarTransform(nn.Module):
    """One planar transformation, whose numbers are functions of a context; it starts as identity.

    Args:
        dim: d.
        context: Width of the context.
    """

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.dim = dim
        self.numbers = nn.Linear(context, 2 * dim + 1)
        with torch.no_grad():  # u = 0: the identity, which learns since w is not 0
            self.numbers.weight[:dim].zero_()
            self.numbers.bias[:dim].zero_()

    def forward(self, context: Tensor) -> _Planar:
        """Return the transformation at contexts `[n, c]`."""
        u, w, b = self.numbers(context).split((self.dim, self.dim, 1), 1)
        inner = (u * w).sum(1, keepdim=True)
        along = (F.softplus(inner + _ONE) - 1.0 - inner) / (
            w.square().sum(1, keepdim=True) + _SMALL
        )
        return _Planar(u + along * w, w, b)


class _Planar:
    """A planar transformation of `[n, d]`, one for each row."""

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        self.u, self.w, self.b = u, w, b

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values `[n, d]` and log determinants `[n]`."""
        h = torch.tanh((self.w * x).sum(1, keepdim=True) + self.b)
        slope = (self.u * self.w).sum(1) * (1 - h.square()).squeeze(1)
        return x + self.u * h, torch.log1p(slope)


def planar_transforms(dim: int, context: int, transforms: int) -> nn.ModuleList:
    """Return planar transformations given a context."""
    return nn.ModuleList(PlanarTransform(dim, context) for _ in range(transforms))


class FlowHead(nn.Module):
    """A chain of transformations given features.

    Args:
        transforms: Modules that, called with the features `[n, c]`, give a transform with
            `call_and_ladj` of `[n, d]`.
    """

    def __init__(self, transforms: nn.ModuleList) -> None:
        super().__init__()
        self.transforms = transforms

    def forward(self, start: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map starts `[n, d]` to values `[n, d]` and log determinants `[n]`, at features."""
        total = start.new_zeros(len(start))
        for lazy in self.transforms:
            transform: _Transform = lazy(features)
            start, ladj = transform.call_and_ladj(start)
            total = total + ladj
        return start, total
