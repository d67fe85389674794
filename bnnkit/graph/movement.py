"""Data movement in a slim graph: the same movement with the sizes that are left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bnnkit.errors import StructureError
from bnnkit.graph.labels import collapse, varying_axes
from bnnkit.graph.rules import MOVES, base_name
from bnnkit.graph.values import Ids

__all__ = ["moved"]

Change = tuple[fx.Node, Any, tuple[Any, ...]]
_SIZED = {"view", "reshape", "_unsafe_view", "expand"}
_SELECTING = {"slice", "narrow", "flip", "roll"}
_SPLITTING = {"chunk", "split", "split_with_sizes"}
_aten = torch.ops.aten


def moved(
    node: fx.Node, values: Mapping[fx.Node, Any], mask: Callable[[Tensor], Tensor]
) -> Change | None:
    """Return how a data movement reads in the slim graph.

    Args:
        node: An operation of the full graph.
        values: What every node of the full graph holds.
        mask: Maps labels to which of them stay.

    Returns:
        `(source node, operation, arguments after the source)`, or None where the operation can be
        copied as it is.

    Raises:
        StructureError: The movement cannot be expressed on the channels that are left.
    """
    name = base_name(node.target)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not isinstance(values.get(source), Ids):
        return None
    if name in _SPLITTING:
        return _split(node, source, values, mask)
    result = values.get(node)
    if not isinstance(result, Ids):
        return None
    if name in {"pad", "constant_pad_nd"}:
        return _pad(node, source, values, mask)
    if name not in MOVES:
        return None
    axes, before = varying_axes(result.ids), varying_axes(values[source].ids)
    if len(axes) > 1:
        return None  # an intermediate layout: skipped by the movement that ends it
    if len(before) > 1:
        return _shuffle(node, values, mask)
    if name == "squeeze" and len(node.args) == 1:
        return _squeeze(source, values[source].ids, result.ids)
    if name == "select" and _args(node)[1] % values[source].ids.dim() in before:
        return _select_one(node, source, values, mask)
    if name in _SIZED and axes:
        return _resize(node, source, result.ids, axes[0], mask)
    if name == "unflatten" and axes:
        first = _args(node)[1] % values[source].ids.dim()
        count = _count(result.ids, axes[0], mask)
        sizes = _with_size(list(_args(node)[2]), axes[0] - first, count)
        return source, node.target, (node.args[1], sizes)
    if name in _SELECTING and before and before[0] in _selected_axes(node, result.ids.dim()):
        return _select(node, source, values, before[0], mask)
    return None


def _args(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments, whose types only the operation knows."""
    return node.args


def _target(node: fx.Node) -> Callable[..., Any]:
    """Return the ATen overload that a node calls."""
    assert callable(node.target)
    return node.target


def _line(ids: Tensor, axis: int) -> Tensor:
    """Return the labels along the one axis where they vary."""
    return collapse(ids).reshape(-1).expand(ids.shape[axis])


def _count(ids: Tensor, axis: int, mask: Callable[[Tensor], Tensor]) -> int:
    return int(mask(_line(ids, axis)).sum())


def _with_size(sizes: list[Any], axis: int, size: int) -> list[Any]:
    return [size if i == axis and s != -1 else s for i, s in enumerate(sizes)]


def _resize(
    node: fx.Node, source: fx.Node, ids: Tensor, axis: int, mask: Callable[[Tensor], Tensor]
) -> Change:
    sizes = _with_size(list(_args(node)[1]), axis, _count(ids, axis, mask))
    return source, node.target, (sizes,)


def _split(
    node: fx.Node,
    source: fx.Node,
    values: Mapping[fx.Node, Any],
    mask: Callable[[Tensor], Tensor],
) -> Change | None:
    axis = (node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)) or 0
    axis %= values[source].ids.dim()
    if axis not in varying_axes(values[source].ids):
        return None
    # A piece can hold a single label, so it is counted along its whole length.
    sizes = [int(mask(_line(piece.ids, axis)).sum()) for piece in values[node]]
    return source, _aten.split_with_sizes.default, (sizes, axis)


def _pad(
    node: fx.Node,
    source: fx.Node,
    values: Mapping[fx.Node, Any],
    mask: Callable[[Tensor], Tensor],
) -> Change | None:
    axes = varying_axes(values[source].ids)
    pads = list(_args(node)[1])
    at = 2 * (values[source].ids.dim() - 1 - axes[0]) if len(axes) == 1 else len(pads)
    if at >= len(pads):
        return None
    alive = mask(_line(values[node].ids, axes[0]))
    before, after = pads[at], pads[at + 1]
    pads[at] = int(alive[:before].sum())
    pads[at + 1] = int(alive[len(alive) - after :].sum())
    return source, node.target, (pads, *node.args[2:])


def _positions(ids: Tensor, axis: int) -> Tensor:
    """Number the positions along one axis, in the shape of `ids`."""
    view = [-1 if a == axis else 1 for a in range(ids.dim())]
    return torch.arange(ids.shape[axis]).reshape(view).expand(ids.shape)


def _gather(
    source: fx.Node,
    axis: int,
    origin: Tensor,
    before: Tensor,
    after: Tensor,
) -> Change:
    """Pick, from the source's remaining channels, those that remain in the result.

    Args:
        source: The node to pick from.
        axis: Its channel axis.
        origin: `[channels of the result]` position of each in the source.
        before: `[channels of the source]` bool, which remain.
        after: `[channels of the result]` bool, which remain.
    """
    rank = before.long().cumsum(0) - 1
    index = rank[origin[after]].tolist()
    if not index:
        return source, _aten.slice.Tensor, (axis, 0, 0)
    if index == list(range(index[0], index[0] + len(index))):
        return source, _aten.slice.Tensor, (axis, index[0], index[0] + len(index))
    return source, _aten.index_select.default, (axis, torch.tensor(index))


def _selected_axes(node: fx.Node, rank: int) -> list[int]:
    """Return the axes that a slice, narrow, flip or roll works on."""
    at = 2 if base_name(node.target) == "roll" else 1
    dims: Any = node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0)
    listed = dims if isinstance(dims, list | tuple) else [dims]
    return [int(d) % rank for d in listed]


def _select(
    node: fx.Node,
    source: fx.Node,
    values: Mapping[fx.Node, Any],
    axis: int,
    mask: Callable[[Tensor], Tensor],
) -> Change:
    ids = values[source].ids
    origin = _target(node)(_positions(ids, axis), *node.args[1:], **node.kwargs)
    if any(origin.shape[a] != ids.shape[a] for a in range(ids.dim()) if a != axis):
        raise _refused(node)
    before, after = mask(_line(ids, axis)), mask(_line(values[node].ids, axis))
    return _gather(source, axis, _line(origin, axis), before, after)


def _select_one(
    node: fx.Node,
    source: fx.Node,
    values: Mapping[fx.Node, Any],
    mask: Callable[[Tensor], Tensor],
) -> Change:
    """Take the one channel from where it is now."""
    ids, (axis, position) = values[source].ids, _args(node)[1:3]
    alive = mask(_line(ids, axis % ids.dim()))
    position %= len(alive)
    if not alive[position]:
        raise _refused(node)
    return source, node.target, (axis, int(alive[:position].sum()))


def _squeeze(source: fx.Node, before: Tensor, after: Tensor) -> Change:
    """Name the axes that go: a channel axis that shrinks to one entry stays."""
    gone = [a for a, size in enumerate(before.shape) if size == 1]
    assert before.dim() - len(gone) == after.dim()  # the same axes went in the full graph
    return source, _aten.squeeze.dims, (gone,)


def _shuffle(
    node: fx.Node, values: Mapping[fx.Node, Any], mask: Callable[[Tensor], Tensor]
) -> Change:
    """Replace `view, transpose, view` over channels by one pick from where it started."""
    chain = [node]
    while len(varying_axes(values[_args(chain[-1])[0]].ids)) > 1:
        chain.append(_args(chain[-1])[0])
        if base_name(chain[-1].target) not in MOVES | {"contiguous", "clone"}:
            raise _refused(node)
    start = _args(chain[-1])[0]
    ids, result = values[start].ids, values[node].ids
    axes, ends = varying_axes(ids), varying_axes(result)
    same = ids.dim() == result.dim() and axes == ends and len(axes) == 1
    if not same or any(ids.shape[a] != result.shape[a] for a in range(ids.dim()) if a != axes[0]):
        raise _refused(node)
    axis = axes[0]
    origin = _positions(ids, axis)
    for step in reversed(chain):
        name = base_name(step.target)
        function = _aten.reshape.default if name in {"view", "_unsafe_view"} else _target(step)
        tail = fx.map_arg(step.args[1:], lambda n: values[n])
        origin = function(origin, *tail)
    return _gather(
        start, axis, _line(origin, axis), mask(_line(ids, axis)), mask(_line(result, axis))
    )


def _refused(node: fx.Node) -> StructureError:
    return StructureError(
        "Rewriting the model's graph", f"the operation {base_name(node.target)} ({node.name})",
        "it moves channels in a way that cannot be expressed on those that are left",
        "Exclude the layers before it with --exclude.",
    )  # fmt: skip
