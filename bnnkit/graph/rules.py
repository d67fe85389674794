"""What each ATen operation does to channel labels.

Four kinds cover convolutional nets: layers that read and write channels (`conv`, `linear`, `batch
norm`), element-wise operations (they unite), data movement (executed on the labels as it is) and
spatial reductions (they need labels that do not vary where they reduce). Anything else locks what
it touches and says so: a channel is either provably removable or reported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnnkit.graph.labels import NEUTRAL, collapse
from bnnkit.graph.layer_rules import CONVOLUTIONS, argument, conv, linear, norm, prelu
from bnnkit.graph.values import Ids, Param, Trace

__all__ = ["MOVES", "apply_rule", "base_name", "lock_unknown"]

Shape = tuple[int, ...]

_POINTWISE = {
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone",
    "detach", "alias", "hardswish", "lift_fresh_copy",
}  # fmt: skip
MOVES = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "mT",
    "squeeze", "unsqueeze", "expand", "expand_as", "slice", "select", "narrow", "chunk", "split",
    "split_with_sizes", "unbind", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "flip",
    "roll", "movedim", "swapaxes", "view_as", "numpy_T", "adjoint",
}  # fmt: skip
_SPATIAL = {
    "max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3, "max_pool2d_with_indices": 2,
    "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "adaptive_avg_pool1d": 1,
    "adaptive_avg_pool2d": 2, "adaptive_avg_pool3d": 3, "_adaptive_avg_pool2d": 2,
    "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_bilinear2d": 2,
    "upsample_bicubic2d": 2, "_upsample_nearest_exact2d": 2, "reflection_pad1d": 1,
    "reflection_pad2d": 2, "replication_pad1d": 1, "replication_pad2d": 2,
}  # fmt: skip
_NEW = {"new_zeros", "new_ones", "new_full", "new_empty"}
_LAYERS = {
    "linear",
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "instance_norm",
    "prelu",
}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "logsumexp", "prod", "norm"}
_CASTS = {"to", "_to_copy", "type_as"}
_LIKE = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"}


def base_name(target: Any) -> str:
    """Return `relu` for `aten.relu_.default`."""
    name = str(getattr(target, "__name__", target)).split(".")[0]
    schema = getattr(target, "_schema", None)
    if schema is not None:
        name = str(schema.name).split("::")[-1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def apply_rule(
    trace: Trace,
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Any,
    module: str,
) -> Any:
    """Run one operation on labels.

    Args:
        trace: Collects unions, locks, slots and reads.
        target: The ATen overload.
        args: Positional arguments: `Ids`, `Param`, constants, or lists of them.
        kwargs: Keyword arguments.
        shapes: Shape of the result, or a tuple of shapes.
        module: Path of the innermost module that the operation belongs to.

    Returns:
        `Ids`, or a tuple of them.
    """
    name = base_name(target)
    if name in _LIKE | _CASTS and isinstance(args[0], Ids | Param):
        # A constant in the shape of channels comes and goes with them.
        return _materialised(trace, args[0])
    if name in _NEW and isinstance(args[0], Ids):
        return torch.zeros(()).expand(shapes)  # its values are of no interest, its shape is fixed
    if name.startswith("_assert"):
        return None
    if name in CONVOLUTIONS | _LAYERS:
        return _layer(trace, name, args, kwargs, shapes, module)
    args = tuple(_materialised(trace, a) for a in args)
    kwargs = {k: _materialised(trace, v) for k, v in kwargs.items()}
    if name in _POINTWISE or torch.Tag.pointwise in getattr(target, "tags", ()):
        return _pointwise(trace, args, kwargs, shapes)
    first = args[0] if args else None
    if name in {"cat", "concat", "stack"}:
        return _cat(trace, target, args, kwargs)
    if name in {"pad", "constant_pad_nd"} and isinstance(first, Ids):
        mode = argument(args, kwargs, 2, "mode") if name == "pad" else "constant"
        return _pad(trace, first, list(args[1]), shapes, mode or "constant")
    if name in MOVES and isinstance(first, Ids):
        return _move(target, args, kwargs)
    if name in _SPATIAL and isinstance(first, Ids):
        axes = list(range(first.ids.dim() - _SPATIAL[name], first.ids.dim()))
        return _reduce(trace, first, axes, shapes, name)
    if name in _REDUCTIONS and isinstance(first, Ids):
        return _reduction(trace, first, args, kwargs, shapes, name)
    return lock_unknown(trace, name, args, kwargs, shapes, module)


def _layer(
    trace: Trace,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Any,
    module: str,
) -> Any:
    if name in CONVOLUTIONS:
        return conv(trace, name, args, kwargs, shapes, module)
    if name == "linear":
        return linear(trace, args, kwargs, shapes, module)
    return prelu(trace, args, shapes) if name == "prelu" else norm(trace, args, shapes)


def _materialised(trace: Trace, value: Any) -> Any:
    if isinstance(value, Param):
        return trace.materialise(value)
    if isinstance(value, list | tuple):
        return type(value)(_materialised(trace, v) for v in value)
    return value


# --- element-wise ---------------------------------------------------------------------------


def _pointwise(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Shape) -> Ids:
    values = [v for v in (*args, *kwargs.values()) if isinstance(v, Ids)]
    constants = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim()]
    result = values[0].ids
    for other in values[1:]:
        result = _unite_broadcast(trace, result, other.ids)
    flat = collapse(result)
    for constant in constants:
        for back in range(1, min(constant.dim(), flat.dim()) + 1):
            if constant.shape[-back] > 1 and flat.shape[-back] > 1:
                size = constant.shape[-back]
                trace.labels.lock(result, f"combined with a constant of {size} values")
    if sum(size > 1 for size in flat.shape) > 1 and len(values) > 1:
        trace.labels.lock(result, "combined while its channels are laid out along two axes")
    return Ids(flat.expand(shapes))


def _unite_broadcast(trace: Trace, a: Tensor, b: Tensor) -> Tensor:
    """Unite two operands; what is broadcast over many channels is locked, not united."""
    rank = max(a.dim(), b.dim())
    a = a.reshape([1] * (rank - a.dim()) + list(a.shape))
    b = b.reshape([1] * (rank - b.dim()) + list(b.shape))
    flat_a, flat_b = collapse(a), collapse(b)
    for small, large, flat in ((a, b, flat_b), (b, a, flat_a)):
        if any(small.shape[d] == 1 and large.shape[d] > 1 and flat.shape[d] > 1
               for d in range(rank)):  # fmt: skip
            trace.labels.lock(small, "broadcast over the channels of another tensor")
            return large
    shape = [max(m, n) for m, n in zip(flat_a.shape, flat_b.shape, strict=True)]
    flat_a, flat_b = flat_a.expand(shape), flat_b.expand(shape)
    trace.labels.unite(flat_a, flat_b)
    return torch.where(flat_a == NEUTRAL, flat_b, flat_a)


# --- data movement --------------------------------------------------------------------------


def _move(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute a data movement on the labels themselves."""
    plain = [a.ids if isinstance(a, Ids) else a for a in args]
    function = target
    name = base_name(target)
    if name in {"view", "_unsafe_view"}:
        function = torch.ops.aten.reshape.default  # expanded labels have no dense strides
    result = function(*plain, **kwargs)
    if isinstance(result, Tensor):
        return Ids(result)
    return tuple(Ids(r) for r in result)


def _cat(trace: Trace, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ids:
    parts = []
    for part in args[0]:
        if isinstance(part, Ids):
            parts.append(part.ids)
        else:
            parts.append(trace.fixed("concatenated with a constant", tuple(part.shape)).ids)
    axis = argument(args, kwargs, 1, "dim") or 0
    if base_name(target) == "stack":
        return Ids(torch.stack(parts, axis))
    parts = [p for p in parts if p.dim() > 1 or p.numel()]
    axis = axis % parts[0].dim()
    # Uniform axes are collapsed first, so that nothing of the size of an image is built.
    uniform = [
        a for a in range(parts[0].dim())
        if a != axis and all(p.shape[a] == 1 or p.stride(a) == 0 for p in parts)
    ]  # fmt: skip
    shape = list(parts[0].shape)
    for a in uniform:
        parts = [p.narrow(a, 0, 1) for p in parts]
    joined = torch.cat(parts, axis)
    shape[axis] = joined.shape[axis]
    return Ids(joined.expand(shape))


def _pad(trace: Trace, x: Ids, pads: list[int], shapes: Shape, mode: str) -> Ids:
    """Pad: a border of a uniform axis belongs to the channel; new channels get new labels."""
    ids = collapse(x.ids)
    rank = ids.dim()
    for i in range(len(pads) // 2):
        axis = rank - 1 - i
        before, after = pads[2 * i], pads[2 * i + 1]
        if ids.shape[axis] == 1 or (before, after) == (0, 0):
            continue
        two_axes = any(ids.shape[a] > 1 for a in range(rank) if a != axis)
        if two_axes or min(before, after) < 0 or mode != "constant":
            trace.labels.lock(ids, "padded with other channels, or cut, or along two axes")
            return trace.fixed("padded along a channel axis", shapes)
        view = [-1 if a == axis else 1 for a in range(rank)]
        ends = [trace.labels.fresh(n).reshape(view) for n in (before, after)]
        ids = torch.cat([ends[0], ids, ends[1]], axis)
    return Ids(ids.expand(shapes))


# --- reductions -----------------------------------------------------------------------------


def _reduce(trace: Trace, x: Ids, axes: list[int], shapes: Any, name: str) -> Any:
    """Reduce or resize `axes`; the result keeps the labels of the other ones."""
    flat = collapse(x.ids)
    multiple = bool(shapes) and isinstance(shapes[0], tuple)
    first = shapes[0] if multiple else shapes
    if any(flat.shape[a] > 1 for a in axes):
        trace.labels.lock(flat, f"{name} mixes its channels")
        out = trace.fixed(f"the result of {name} over channels", first)
    else:
        dropped = len(first) != flat.dim()
        kept = flat
        if dropped:
            kept = flat.reshape([s for a, s in enumerate(flat.shape) if a not in axes])
        out = Ids(kept.expand(first))
    return tuple(out for _ in shapes) if multiple else out


def _reduction(
    trace: Trace,
    x: Ids,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Any,
    name: str,
) -> Any:
    axes = kwargs.get("dim")
    if axes is None:
        after = 2 if name == "norm" else 1  # the order of the norm comes first
        axes = next((a for a in args[after:] if isinstance(a, int | list | tuple)
                     and not isinstance(a, bool)), None)  # fmt: skip
    rank = x.ids.dim()
    listed = [axes] if isinstance(axes, int) else list(axes or range(rank))
    return _reduce(trace, x, [a % rank for a in listed], shapes, name)


def lock_unknown(
    trace: Trace,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Any,
    module: str,
) -> Any:
    """Lock what an operation touches, because it mixes channels or is not known."""
    mixes = name in {"softmax", "log_softmax", "layer_norm", "group_norm", "rms_norm"}
    verdict = "mixes its channels" if mixes else "is an operation that is not followed"
    reason = f"{name} in {module or 'the model'} {verdict}"

    def lock(value: Any) -> None:
        if isinstance(value, Ids):
            trace.labels.lock(value.ids, reason)
        elif isinstance(value, Param):
            trace.freeze(value, reason)
        elif isinstance(value, list | tuple):
            for v in value:
                lock(v)

    lock([*args, *kwargs.values()])
    if shapes and isinstance(shapes[0], tuple):
        return tuple(trace.fixed(reason, s) for s in shapes)
    return trace.fixed(reason, shapes)
