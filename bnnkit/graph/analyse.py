"""Run the captured graphs of a model on channel labels and read the classes off."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from bnnkit.graph.capture import Capture, capture
from bnnkit.graph.layer_rules import CONVOLUTIONS
from bnnkit.graph.rules import apply_rule, base_name, lock_unknown
from bnnkit.graph.structure import UNGATED, ChannelClass, Locked, Structure
from bnnkit.graph.values import Ids, Param, Trace

__all__ = ["Analysis", "analyse", "analyse_fully"]


@dataclass(frozen=True)
class Analysis:
    """A structure together with the graphs that it was read from.

    Args:
        structure: The channel classes.
        captured: The graphs.
        trace: The labels.
        values: For each graph, what every node holds: `Ids`, `Param` or a constant.
        unit_of: `{label representative: unit}`.
    """

    structure: Structure
    captured: Capture
    trace: Trace
    values: tuple[dict[fx.Node, Any], ...]
    unit_of: dict[int, int]

    def units(self, ids: Tensor) -> Tensor:
        """Return the unit of each label, or UNGATED, in the same shape."""
        roots = self.trace.labels.roots(ids)
        unique, inverse = torch.unique(roots, return_inverse=True)
        found = [self.unit_of.get(int(r), UNGATED) for r in unique]
        return torch.tensor(found, dtype=torch.long)[inverse]


def analyse(model: nn.Module, example: Tensor) -> Structure:
    """Find the channel classes of a model.

    Args:
        model: Any module that `torch.export` can follow.
        example: `[2 or more, ...]` an input batch.

    Raises:
        StructureError: The model cannot be captured.
    """
    return analyse_fully(model, example).structure


def analyse_fully(model: nn.Module, example: Tensor) -> Analysis:
    """Find the channel classes, and keep the graphs for a rewrite."""
    captured = capture(model, example)
    trace = Trace()
    values = tuple(_propagate(trace, program) for program in captured.programs)
    for name, read in trace.reads.items():
        layer = model.get_submodule(name)
        if not _gateable(layer, name, captured.programs):
            kind = type(layer).__name__
            trace.labels.lock(
                read.ids, f"read by {name}, a {kind} that gates cannot be put before"
            )
    structure, unit_of = _classes(trace, tuple(example.shape[1:]), captured.note)
    return Analysis(structure, captured, trace, values, unit_of)


_STANDARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _gateable(layer: nn.Module, name: str, programs: Sequence[ExportedProgram]) -> bool:
    """Tell whether a gate on what a module gets is a gate on what its matrix reads."""
    if not isinstance(layer, _STANDARD):
        return False
    if type(layer).forward in [kind.forward for kind in _STANDARD]:
        return True
    inside = (
        node
        for program in programs
        for node in program.graph.nodes
        if node.op == "call_function" and module_path(node) == name
    )
    return all(_keeps_zeros(node) for node in inside)


def _keeps_zeros(node: fx.Node) -> bool:
    """Tell whether a zero channel stays zero until the matrix, and nothing is scaled unevenly."""
    name = base_name(node.target)
    if name in {"pad", "constant_pad_nd"}:
        return not any(node.args[3 if name == "pad" else 2 :])
    numbers = not isinstance(node.meta.get("val"), Tensor)  # sizes for the padding
    return numbers or name in {"linear", "contiguous", "clone", *CONVOLUTIONS}


def _propagate(trace: Trace, program: ExportedProgram) -> dict[fx.Node, Any]:
    """Run one graph on labels; return what every node holds."""
    values: dict[fx.Node, Any] = {}
    specs = {s.arg.name: s for s in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(trace, program, node, specs[node.name])
        elif node.op == "get_attr":  # the body of a region with its own autocast or grad mode
            values[node] = None
        elif node.op == "call_function":
            values[node] = _call(trace, node, values)
        elif node.op == "output":
            for value in _leaves(fx.map_arg(node.args, lambda n: values[n])):
                if isinstance(value, Ids):
                    trace.labels.lock(value.ids, "the model's output")
                elif isinstance(value, Param):
                    trace.freeze(value, "the model's output")
    return values


def _shape_of(value: Any) -> Any:
    """Return the shape that export recorded, a symbolic batch replaced by its example size."""
    if isinstance(value, list | tuple):
        return tuple(_shape_of(v) for v in value if isinstance(v, Tensor))
    if isinstance(value, Tensor):
        return tuple(int(d) if isinstance(d, int) else int(d.node.hint) for d in value.shape)
    return ()


def _placeholder(trace: Trace, program: ExportedProgram, node: fx.Node, spec: Any) -> Any:
    shape = _shape_of(node.meta.get("val"))
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
        return Param(spec.target, shape)
    if spec.kind == InputKind.USER_INPUT:
        return trace.fixed("the model's input", shape)
    return program.constants.get(spec.target)


def _call(trace: Trace, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args: Any = fx.map_arg(node.args, lambda n: values[n])
    kwargs: Any = fx.map_arg(node.kwargs, lambda n: values[n])
    name = base_name(node.target)
    if name == "getitem":
        return args[0][args[1]]
    leaves = _leaves((args, tuple(kwargs.values())))
    if name == "sym_size":
        shape = args[0].ids.shape if isinstance(args[0], Ids) else args[0].shape
        return int(shape[args[1]])
    if not any(isinstance(v, Ids | Param) for v in leaves):
        return _constant(node, args, kwargs)
    shapes = _shape_of(node.meta.get("val"))
    path = module_path(node)
    try:
        return apply_rule(trace, node.target, args, dict(kwargs), shapes, path)
    except Exception:  # a call form that no rule foresaw: what it touches stays as it is
        return lock_unknown(trace, name, args, dict(kwargs), shapes, path)


def _constant(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Evaluate what depends on no input; keep only the shape where that is not possible."""
    try:
        with torch.random.fork_rng(devices=[]):
            return node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # assertions on symbolic sizes and the like; no channel passes through them
        return torch.zeros(()).expand(_shape_of(node.meta.get("val")))


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that an operation belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return re.sub(r"@\d+", "", path)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in _leaves(v)]
    return [value]


def _classes(
    trace: Trace, input_shape: tuple[int, ...], note: str
) -> tuple[Structure, dict[int, int]]:
    """Group the labels into units, and the units with the same slots into classes."""
    roots = {key: trace.labels.roots(ids) for key, ids in trace.slots.items()}
    reads = {name: trace.labels.roots(read.ids) for name, read in trace.reads.items()}
    signature: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for key, ids in roots.items():
        for root in torch.unique(ids).tolist():
            signature[root].append(key)
    readers: dict[int, list[str]] = defaultdict(list)
    for name, ids in reads.items():
        for root in torch.unique(ids).tolist():
            readers[root].append(name)

    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    locked: dict[tuple[str, str], int] = defaultdict(int)
    for name in trace.order:
        for root in _in_order(roots[name, 0]):
            reason = trace.labels.reason(root)
            if reason is None and not readers[root]:
                reason = "no layer that mixes channels reads it"
            if reason is not None:
                count = int((roots[name, 0] == root).sum())
                locked[name.removesuffix(".weight"), reason] += count
            else:
                group = groups[tuple(signature[root]), tuple(readers[root])]
                if root not in group:
                    group.append(root)
    return _numbered(trace, groups, locked, roots, reads, input_shape, note)


def _in_order(ids: Tensor) -> list[int]:
    return list(dict.fromkeys(ids.tolist()))


def _numbered(
    trace: Trace,
    groups: dict[tuple[Any, ...], list[int]],
    locked: dict[tuple[str, str], int],
    roots: dict[tuple[str, int], Tensor],
    reads: dict[str, Tensor],
    input_shape: tuple[int, ...],
    note: str,
) -> tuple[Structure, dict[int, int]]:
    unit_of: dict[int, int] = {}
    classes: list[ChannelClass] = []
    names: dict[str, int] = defaultdict(int)
    for (slots, readers), units in groups.items():
        first = len(unit_of)
        for root in units:
            unit_of[root] = len(unit_of)
        writers = tuple(
            n.removesuffix(".weight") for n in trace.order if (n, 0) in slots
        ) or tuple(dict.fromkeys(n for n, _ in slots))
        names[writers[0]] += 1
        tail = f"#{names[writers[0]]}" if names[writers[0]] > 1 else ""
        writer = _tensor_name(trace, writers[0])
        multiplicity = int((roots[writer, 0] == units[0]).sum())
        classes.append(
            ChannelClass(writers[0] + tail, first, len(units), writers, readers, multiplicity)
        )

    def numbered(ids: Tensor) -> Tensor:
        return torch.tensor([unit_of.get(r, UNGATED) for r in ids.tolist()], dtype=torch.long)

    structure = Structure(
        classes=tuple(classes),
        locked=tuple(Locked(n, count, reason) for (n, reason), count in locked.items()),
        slots={k: u for k, ids in roots.items() if bool(((u := numbered(ids)) != UNGATED).any())},
        reads={k: u for k, ids in reads.items() if bool(((u := numbered(ids)) != UNGATED).any())},
        input_shape=input_shape,
        note=note,
    )
    return structure, unit_of


def _tensor_name(trace: Trace, writer: str) -> str:
    """Return the tensor name of a writing layer."""
    return f"{writer}.weight" if f"{writer}.weight" in trace.order else "weight"
