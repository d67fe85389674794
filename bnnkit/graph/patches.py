"""A layer as a linear regression: what it multiplies its weight matrix with, position by position.

A convolution without groups, or a linear layer, computes y_t = W a_t + b at every output
position t, where a_t is the patch of the input under the kernel. Its weight as a matrix
`[out, columns]` has the columns in the order (channel, kernel...), and so have the patches here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["column_units", "is_regression", "outputs", "patches", "positions"]

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_regression(layer: nn.Module) -> bool:
    """Tell whether a layer's forward is one product with a weight that is a parameter."""
    plain = type(layer).forward in [kind.forward for kind in _KINDS]
    parameter = isinstance(layer._parameters.get("weight"), nn.Parameter)
    return plain and parameter and getattr(layer, "groups", 1) == 1


def column_units(layer: nn.Module, reads: Tensor) -> Tensor:
    """Return `[columns]` which unit each column of the weight matrix reads.

    Args:
        layer: A regression.
        reads: `[channels in]` units.
    """
    assert isinstance(layer.weight, Tensor)
    return reads.repeat_interleave(math.prod(layer.weight.shape[2:]))


def positions(y: Tensor, layer: nn.Module) -> int:
    """Return how many output positions an output of a layer has, for one input."""
    return y[0].numel() // (y.shape[-1] if isinstance(layer, nn.Linear) else y.shape[1])


def outputs(y: Tensor, layer: nn.Module) -> Tensor:
    """Return an output of a layer as `[batch, positions, out]`."""
    if isinstance(layer, nn.Linear):
        return y.reshape(len(y), -1, y.shape[-1])
    return y.flatten(2).transpose(1, 2)


def patches(x: Tensor, layer: nn.Module, at: Tensor) -> Tensor:
    """Return what a layer multiplies its weight matrix with.

    Args:
        x: `[batch, ...]` an input of the layer.
        layer: A regression.
        at: `[n]` output positions, numbered through.

    Returns:
        `[batch, n, columns]`.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return x.reshape(len(x), -1, x.shape[-1])[:, at]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # "same" and numbers alike, in the order that F.pad takes
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    spread = [
        d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
    ]  # of a kernel, less one
    sizes = [
        (n - w - 1) // s + 1
        for n, w, s in zip(padded.shape[2:], spread, layer.stride, strict=True)
    ]
    where = torch.unravel_index(at, sizes)
    taps: list[slice | Tensor] = [slice(None), slice(None)]
    axes = len(sizes)
    for axis, (first, k) in enumerate(zip(where, layer.kernel_size, strict=True)):
        tap = torch.arange(k, device=at.device) * layer.dilation[axis]
        shape = [1] * axes
        shape[axis] = k
        start = (first * layer.stride[axis]).reshape(-1, *[1] * axes)
        taps.append(start + tap.reshape(shape))
    windows = padded[tuple(taps)]  # [batch, channels, n, kernel...]
    return windows.transpose(1, 2).flatten(2)
