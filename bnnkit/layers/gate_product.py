"""The product of activations and gates, with a backward pass that stays in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gate_product"]

_BLOCK = 1 << 17
"""Numbers in one block of the backward pass on a CPU: half a megabyte stays in the cache."""

_MOST_BLOCKS = 64
"""With more blocks than this, starting them costs more than they save."""


class _GateProduct(torch.autograd.Function):
    """`y = x * theta` for `x [b, c, ...]` and per example gates `theta [b, c]`.

    The gradient of a gate is an inner product over space; autograd would write the whole product
    `grad * x` to fresh memory first, which for large activations costs more than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, theta)
        return x * theta.reshape(*theta.shape, *[1] * (x.dim() - 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        (grad,) = grads
        x, theta = ctx.saved_tensors
        grad_x = grad_theta = None
        if ctx.needs_input_grad[1]:
            grad_theta = _inner(grad, x).to(theta.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = grad * theta.reshape(*theta.shape, *[1] * (x.dim() - 2))
        return grad_x, grad_theta


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product over all axes after the second, `[b, c]`."""
    axes = list(range(2, a.dim()))
    if not axes:
        return a * b
    rows = max(1, _BLOCK // max(1, a[0].numel()))
    if a.is_cuda or len(a) <= rows or len(a) > _MOST_BLOCKS * rows:
        return (a * b).sum(axes)
    return torch.cat(
        [
            (p * q).sum(axes)
            for p, q in zip(torch.split(a, rows), torch.split(b, rows), strict=True)
        ]
    )


def gate_product(x: Tensor, theta: Tensor) -> Tensor:
    """Multiply activations by their gates.

    Args:
        x: `[b, c, ...]`.
        theta: Gates that broadcast to `x`; the per example form `[b, c, 1, ...]` takes the fast
            backward pass.
    """
    theta = theta.to(x.dtype)
    per_example = theta.dim() == x.dim() and theta.shape[:2] == x.shape[:2]
    if per_example and all(n == 1 for n in theta.shape[2:]) and torch.is_grad_enabled():
        gated: Tensor = _GateProduct.apply(x, theta.flatten(1))  # type: ignore[no-untyped-call]
        return gated
    return x * theta
