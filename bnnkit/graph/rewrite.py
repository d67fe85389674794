"""Rewrite the captured graph of a model whose Python code holds sizes that do not follow.

`x.view(-1, 400)`, a zero-padded shortcut or a channel shuffle bakes widths into code. Then the
slim model runs its captured graph instead: layers stay the owner's modules (so training mode,
hooks and state names stay), everything between them is copied with its constants corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bnnkit.errors import StructureError
from bnnkit.graph.analyse import Analysis, analyse_fully, module_path
from bnnkit.graph.labels import collapse
from bnnkit.graph.movement import moved
from bnnkit.graph.remove import slice_tensors
from bnnkit.graph.rules import MOVES, base_name
from bnnkit.graph.structure import UNGATED, Structure
from bnnkit.graph.values import Param

__all__ = ["RewrittenModel", "rewrite"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.PReLU)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYER_OPS = {"conv1d", "conv2d", "conv3d", "linear", "prelu", "batch_norm"}


class RewrittenModel(nn.Module):
    """A module that keeps the owner's layers and runs a corrected copy of their graph.

    Args:
        model: The sliced module whose layers are taken over, under the same names.
        forwards: `{training flag: generated forward}`.
        indices: `{name: [channels]}` picks that the forwards make; part of no state dict.
    """

    def __init__(
        self,
        model: nn.Module,
        forwards: dict[bool, Callable[..., Any]],
        indices: dict[str, Tensor],
    ) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        persistent = model.state_dict().keys()
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name in persistent)
        for name, index in indices.items():
            self.register_buffer(name, index, persistent=False)
        self._forwards = forwards

    def forward(self, x: Tensor) -> Any:
        """Run the graph of the current mode, `[batch, ...]` in, the owner's output out."""
        forward = self._forwards.get(self.training, self._forwards[False])
        return forward(self, x)


def rewrite(model: nn.Module, structure: Structure, keep: Tensor) -> nn.Module:
    """Remove closed units from a model and from the captured graph around its layers.

    Args:
        model: The module at full width, gates folded in; its layers are taken over.
        structure: The classes that `keep` refers to.
        keep: `[units]` bool.

    Raises:
        StructureError: The graph moves channels in a way that cannot be rewritten.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    example = torch.zeros(2, *structure.input_shape, device=device, dtype=dtype)
    analysis = analyse_fully(model, example)
    first = {c.name: c.first for c in analysis.structure.classes}
    alive = torch.ones(analysis.structure.n_units + 1, dtype=torch.bool)  # the last: ungated
    for c in structure.classes:
        alive[first[c.name] : first[c.name] + c.size] = keep[c.units].cpu()
    programs = analysis.captured.programs
    indices: dict[str, Tensor] = {}
    forwards = {
        bool(i): _Rewriter(model, analysis, i, alive, indices).forward()
        for i in range(len(programs))
    }
    slice_tensors(model, structure.kept_indices(keep))
    slim = RewrittenModel(model, forwards, {n: t.to(device) for n, t in indices.items()})
    slim.training = model.training  # of the root alone: a layer that its owner froze stays so
    return slim


class _Rewriter:
    """Copies one graph, layers as module calls and constants corrected."""

    def __init__(
        self,
        model: nn.Module,
        analysis: Analysis,
        index: int,
        alive: Tensor,
        indices: dict[str, Tensor],
    ) -> None:
        self.model = model
        self.program: ExportedProgram = analysis.captured.programs[index]
        self.values = analysis.values[index]
        self.laid_out = {n: _laid_out(analysis, v) for n, v in self.values.items()}
        self.analysis = analysis
        self.alive = alive
        self.indices = indices
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, Any] = {}

    def forward(self) -> Callable[..., Any]:
        """Return the corrected forward as a function of (module, input)."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.copies[node] = self._placeholder(node)
            elif node.op == "get_attr":
                raise StructureError(
                    "Rewriting the model's graph", f"the region {node.name!r}",
                    "a part of forward with its own autocast or grad mode is not followed",
                    "Exclude the layers in it with --exclude.",
                )  # fmt: skip
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self.graph.output(fx.map_arg(node.args[0], lambda n: self.copies[n]))
        self._drop_skipped()
        code = self.graph.python_code("self")
        namespace: dict[str, Any] = dict(code.globals)
        exec(compile(code.src, "<bnnkit rewrite>", "exec"), namespace)  # our own graph's code
        flat = namespace["forward"]
        spec = self.program.call_spec.out_spec

        def forward(module: nn.Module, x: Tensor) -> Any:
            return pytree.tree_unflatten(list(flat(module, x)), spec)

        return forward

    def _drop_skipped(self) -> None:
        """Erase the intermediate layouts that a pick made superfluous; they no longer fit."""
        for node in reversed(self.graph.nodes):
            movement = base_name(node.target) in MOVES | {"contiguous", "clone", "sym_size"}
            if node.op == "call_function" and not node.users and movement:
                self.graph.erase_node(node)

    def mask(self, ids: Tensor) -> Tensor:
        """Return which positions of a value stay, in the shape of `ids`."""
        units = self.analysis.units(ids)
        return self.alive[torch.where(units == UNGATED, len(self.alive) - 1, units)]

    def _placeholder(self, node: fx.Node) -> Any:
        value = self.values[node]
        if isinstance(value, Param):
            return self.graph.get_attr(value.name) if self._needed(node) else None
        if isinstance(value, Tensor):  # built in the owner's code, and built again with it
            return self._stored(value)
        return self.graph.placeholder(node.name)

    def _needed(self, node: fx.Node) -> bool:
        """Tell whether a stored tensor is used outside of layer calls."""
        return any(self._layer(user) is None and not _counter(user) for user in node.users)

    def _layer(self, node: fx.Node) -> str | None:
        """Return the module that an operation is the whole of, or None."""
        if base_name(node.target) not in _LAYER_OPS:
            return None
        path = module_path(node)
        layer = self.model.get_submodule(path) if path else None
        plain = type(layer) in (*_LAYERS, *_NORMS)
        plain &= getattr(layer, "padding_mode", "zeros") == "zeros"  # others pad on their own
        own = all(
            self.values[a].name.rpartition(".")[0] == path
            for a in node.args
            if isinstance(a, fx.Node) and isinstance(self.values.get(a), Param)
        )
        return path if plain and own else None

    def _call(self, node: fx.Node) -> None:
        if _counter(node) or base_name(node.target).startswith("_assert"):
            return
        path = self._layer(node)
        if path is not None:
            self.copies[node] = self.graph.call_module(path, self._copied(node.args[:1]))
            return
        target: Any = node.target
        change = moved(node, self.laid_out, self.mask)
        if change is not None:
            source, target, tail = change
            args: tuple[Any, ...] = (
                self.copies[source],
                *(self._stored(t) if isinstance(t, Tensor) else self._copied(t) for t in tail),
            )
            self.copies[node] = self.graph.call_function(target, args)
            return
        args = self._copied(node.args)
        if base_name(target) in {"conv1d", "conv2d", "conv3d"} and len(args) > 6:
            args = (*args[:6], self._groups(node, args[6]))
        self.copies[node] = self.graph.call_function(target, args, self._copied(node.kwargs))

    def _groups(self, node: fx.Node, groups: int) -> int:
        """Return the groups of a convolution that is no plain layer; depthwise ones shrink."""
        source, weight = (self.values[a] for a in node.args[:2] if isinstance(a, fx.Node))
        depthwise = isinstance(weight, Param) and weight.shape[1] == 1 and groups > 1
        return int(self.mask(collapse(source.ids)).sum()) if depthwise else groups

    def _stored(self, index: Tensor) -> fx.Node:
        """Keep a constant as a buffer, so that it moves between devices with the model."""
        name = f"constant_{len(self.indices)}"
        self.indices[name] = index
        return self.graph.get_attr(name)

    def _copied(self, args: Any) -> Any:
        return fx.map_arg(args, lambda n: self.copies[n])


def _laid_out(analysis: Analysis, value: Any) -> Any:
    """Return the labels of a stored tensor that is moved about; other values stay."""
    return (analysis.trace.stored(value) or value) if isinstance(value, Param) else value


def _counter(node: fx.Node) -> bool:
    """Tell whether a node only counts batches, which the norm module does itself."""
    first = node.args[0] if node.args else None
    return (
        base_name(node.target) == "add"
        and isinstance(first, fx.Node)
        and str(first.name).endswith("num_batches_tracked")
    )
