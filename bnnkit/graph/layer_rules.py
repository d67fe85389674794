"""What layers that read and write channels do to labels: convolution, linear, normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bnnkit.graph.labels import collapse
from bnnkit.graph.values import Ids, Param, Trace

__all__ = ["CONVOLUTIONS", "argument", "conv", "linear", "norm", "prelu"]

Shape = tuple[int, ...]

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution"}
"""Convolutions that are not transposed."""


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], at: int, name: str) -> Any:
    """Return an argument that may be given by position or by name."""
    return args[at] if len(args) > at else kwargs.get(name)


def _owned(weight: Any, module: str) -> bool:
    """Tell whether an operation's weight is the very `weight` of the module that runs it."""
    return isinstance(weight, Param) and weight.name == f"{module}.weight".lstrip(".")


def _mix_elsewhere(
    trace: Trace,
    value: Any,
    weight: Any,
    shapes: Shape,
    module: str,
    what: str,
) -> Ids:
    """Lock the input of a mixing operation that is not a layer of its own."""
    where = weight.name if isinstance(weight, Param) else "a computed weight"
    reason = f"{what} with {where} inside {module or 'the model'} is not a layer of its own"
    for part in (value, weight):
        if isinstance(part, Ids):
            trace.labels.lock(part.ids, reason)
        elif isinstance(part, Param):
            trace.freeze(part, reason)
    return trace.fixed(reason, shapes)


def conv(
    trace: Trace,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Shape,
    module: str,
) -> Ids:
    """A convolution reads and writes channels; a depthwise one passes them on."""
    x, weight = args[0], args[1]
    groups = argument(args, kwargs, 8 if name == "convolution" else 6, "groups") or 1
    if not isinstance(x, Ids) or not _owned(weight, module):
        return _mix_elsewhere(trace, x, weight, shapes, module, "a convolution")
    if name == "convolution" and args[6]:
        return _mix_elsewhere(trace, x, weight, shapes, module, "a transposed convolution")
    if x.ids.dim() != len(shapes):
        return _mix_elsewhere(trace, x, weight, shapes, module, "an unbatched convolution")
    spatial = list(range(2, x.ids.dim()))
    if any(collapse(x.ids).shape[a] > 1 for a in spatial):
        trace.labels.lock(x.ids, f"{module} convolves along a channel axis")
    ids = trace.channel_ids(x, 1, module)
    per_group = weight.shape[1]
    if groups > 1 and per_group == 1:
        # Depthwise: channel c alone makes outputs c*m .. c*m+m-1, so they are of its class.
        out = trace.slot(weight.name, 0, ids.repeat_interleave(weight.shape[0] // groups))
    else:
        if groups > 1:
            # The groups keep equal sizes only if the same positions go in each of them.
            _tie_positions(trace, ids, groups)
        trace.slot(weight.name, 1, ids[:per_group])
        trace.read(module, ids)
        out = _written(trace, weight.name, weight.shape[0])
        if groups > 1:
            _tie_positions(trace, out, groups)
    _bias(trace, argument(args, kwargs, 2, "bias"), out)
    return Ids(out.reshape([1, -1] + [1] * len(spatial)).expand(shapes))


def _tie_positions(trace: Trace, ids: Tensor, groups: int) -> None:
    rows = ids.reshape(groups, -1)
    trace.labels.unite(rows[:1].expand_as(rows), rows)


def _written(trace: Trace, name: str, size: int) -> Tensor:
    """Return the labels that a layer writes; the same ones at every call."""
    if name not in trace.order:
        trace.order.append(name)
    if (name, 0) not in trace.slots:
        trace.slot(name, 0, trace.labels.fresh(size))
    return trace.slots[name, 0]


def _bias(trace: Trace, bias: Any, out: Tensor) -> None:
    if isinstance(bias, Param):
        trace.slot(bias.name, 0, out)
    elif isinstance(bias, Ids):
        trace.labels.lock(out, "its bias is computed")


def linear(
    trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Shape, module: str
) -> Ids:
    """A linear layer reads and writes the last axis."""
    x, weight = args[0], args[1]
    if not isinstance(x, Ids) or not _owned(weight, module):
        return _mix_elsewhere(trace, x, weight, shapes, module, "a matrix product")
    ids = trace.channel_ids(x, -1, module)
    trace.slot(weight.name, 1, ids)
    trace.read(module, ids)
    out = _written(trace, weight.name, weight.shape[0])
    _bias(trace, argument(args, kwargs, 2, "bias"), out)
    return Ids(out.expand(shapes))


def norm(trace: Trace, args: tuple[Any, ...], shapes: Any) -> Any:
    """Batch and instance norm treat every channel alone: their vectors follow the channel."""
    x = args[0]
    if not isinstance(x, Ids):
        return trace.fixed("a normalised constant", shapes)
    ids = trace.channel_ids(x, 1, "a normalisation")
    for vector in args[1:5]:
        if isinstance(vector, Param):
            trace.slot(vector.name, 0, ids)
        elif isinstance(vector, Ids):
            trace.labels.lock(ids, "its normalisation has computed statistics or scales")
    return (x,) if shapes and isinstance(shapes[0], tuple) else x


def prelu(trace: Trace, args: tuple[Any, ...], shapes: Any) -> Any:
    """A PReLU has one slope for all channels, or one for each."""
    x, weight = args
    if not isinstance(x, Ids):
        return trace.fixed("a rectified constant", shapes)
    if not isinstance(weight, Param):
        trace.labels.lock(x.ids, "its PReLU has computed slopes")
    elif weight.shape[0] > 1:
        trace.slot(weight.name, 0, trace.channel_ids(x, 1, "a PReLU"))
    return x
