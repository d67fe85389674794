"""A module whose forward pass takes gradients, as a graph without them: for export.

`torch.export` does not follow `torch.autograd.grad`. Tracing what autograd really calls does: the
result computes each gradient by plain operators. The backward pass of a convolution is an operator
that runtimes do not know; with respect to its input it is a convolution too. Cholesky factors and
triangular solves are written out as well (`graph.linear_algebra`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from bnnkit.graph.linear_algebra import LINEAR_ALGEBRA

__all__ = ["without_autograd"]


def without_autograd(module: nn.Module, inputs: Sequence[Tensor]) -> GraphModule:
    """Return a graph that computes what the module computes, gradients included.

    Args:
        module: A module that may call `torch.autograd.grad` with respect to what its inputs give;
            its parameters take no gradient (`requires_grad_(False)`).
        inputs: Example inputs. Axes of equal size in them stay equal; each size above one becomes
            a variable, as far as the module does not ask for its value.

    Returns:
        The graph, for `torch.export` with dynamic shapes.

    Raises:
        RuntimeError: An operation cannot be traced, or asks for a weight's gradient.
    """
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    rules = {
        **core_aten_decompositions(),
        **LINEAR_ALGEBRA,
        _CONVOLUTION_BACKWARD: _convolution_backward,
    }
    with torch.no_grad():  # gradients are asked for where the module asks
        traced: GraphModule = make_fx(
            module,
            tracing_mode="symbolic",
            decomposition_table=rules,
            _allow_non_fake_inputs=True,  # the module's own weights stay what they are
        )(*inputs)
    return traced.eval()


_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,  # noqa: ANN401 - of the operator's signature, not used
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Return the gradient with respect to the input: the transposed convolution.

    Raises:
        RuntimeError: A weight's gradient is wanted.
    """
    if wanted[1] or wanted[2]:
        raise RuntimeError("the gradient of a convolution's weight is not traced")
    convolution = torch.ops.aten.convolution.default
    if transposed:
        zeros = [0] * len(stride)
        out = convolution(grad, weight, None, stride, padding, dilation, False, zeros, groups)
        return out, None, None
    rest = [
        x.shape[2 + i]
        - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (k - 1) + 1)
        for i, k in enumerate(weight.shape[2:])
    ]
    out = convolution(grad, weight, None, stride, padding, dilation, True, rest, groups)
    return out, None, None
