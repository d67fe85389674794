r"""Fisher information about latents, from the tangents of a decoder's outputs.

With the Jacobian J of the parameters of the likelihood, and their Fisher information F,

.. math:: I(z) = J^T F J \qquad (\text{Gauss-Newton; for canonical links the Hessian of}
   -\log p(x | z) \text{ without the curvature of the decoder})

======================  =======================================================================
name                    F
======================  =======================================================================
`bernoulli`             p (1 - p)
`continuous-bernoulli`  1 / l² - 1 / (4 sinh²(l / 2)), the variance of x
`gaussian`              e⁻²ˢ of the mean, 2 of log sigma
`categorical256`        diag(p) - p pᵀ
======================  =======================================================================

References:
    J. Martens, New insights and perspectives on the natural gradient method (2020), secs. 8-9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["fisher_information"]

_NEAR_ZERO = 0.3
"""Logits nearer to 0 take the series: there two large terms cancel."""


def fisher_information(
    kind: str, parameters: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Tensor:
    """Return the Fisher information about d latents, for each of n data.

    Args:
        kind: One of `likelihoods.LIKELIHOODS`.
        parameters: Of the likelihood, each `[n, D]` (logits of `categorical256` `[n, D, 256]`).
        tangents: Their derivatives by each latent, each `[d, n, ...]`.

    Returns:
        `[n, d, d]`, symmetric and positive semi-definite.

    Raises:
        KeyError: No such likelihood.
    """
    roots = _ROOTS[kind](parameters, tangents)
    total: Tensor = sum((_gram(root) for root in roots), start=roots[0].new_zeros(()))
    return total


def _gram(root: Tensor) -> Tensor:
    rows = root.flatten(2).transpose(0, 1)
    return rows @ rows.mT


def _bernoulli(parameters: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    p = torch.sigmoid(parameters[0])
    return [tangents[0] * (p * (1 - p)).sqrt()]


def _continuous_bernoulli(
    parameters: Sequence[Tensor], tangents: Sequence[Tensor]
) -> list[Tensor]:
    near = parameters[0].abs() < _NEAR_ZERO
    logits = torch.where(near, torch.ones_like(parameters[0]), parameters[0])
    far = logits.square().reciprocal() - 0.25 * torch.sinh(logits / 2).square().reciprocal()
    square = parameters[0].square()
    series = 1 / 12 - square / 240 + square.square() / 6048
    return [tangents[0] * torch.where(near, series, far).sqrt()]


def _gaussian(parameters: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    return [tangents[0] * torch.exp(-parameters[1]), tangents[1] * 2.0**0.5]


def _categorical(parameters: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    p = parameters[0].softmax(-1)
    return [(tangents[0] - (p * tangents[0]).sum(-1, keepdim=True)) * p.sqrt()]


_ROOTS: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]] = {
    "bernoulli": _bernoulli,
    "continuous-bernoulli": _continuous_bernoulli,
    "gaussian": _gaussian,
    "categorical256": _categorical,
}
