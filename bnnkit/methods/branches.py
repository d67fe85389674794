"""Where the output of a layer goes: into a batch norm, and into a sum with another branch.

A layer's output (or what one batch norm makes of it) that is added to something else is one
branch of a residual block. `find_branches` looks once; `observe` runs a model as far as needed and
returns what the layer got, what came out of its branch, and what that was added to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Branch", "Seen", "find_branches", "observe"]

_SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")
_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Branch:
    """Where the output of a layer goes.

    Args:
        layer: Name of the layer.
        norm: Name of the batch norm that alone reads it, or None.
        summed: Whether the result is added to another tensor.
    """

    layer: str
    norm: str | None
    summed: bool

    @property
    def end(self) -> str:
        """Name of the module whose output is the branch's."""
        return self.norm or self.layer


@dataclass(frozen=True)
class Seen:
    """What one forward pass showed of a branch.

    Args:
        x: Input of the layer.
        y: Output of the branch.
        other: What it was added to, or None.
    """

    x: Tensor
    y: Tensor
    other: Tensor | None


def find_branches(model: nn.Module, layers: Sequence[str], x: Tensor) -> list[Branch]:
    """Return the branches of some layers in the order in which they run; once-run layers only.

    Args:
        model: In eval mode.
        layers: Names of modules with one output tensor.
        x: `[n, ...]` inputs of the model.
    """
    modules = {name: model.get_submodule(name) for name in layers}
    norms = {n: m for n, m in model.named_modules() if _is_norm(m)}
    reads: list[Tensor] = []  # kept, so that none is mistaken for a later one
    sums: list[tuple[Tensor, int]] = []
    runs: list[str] = []
    fed: dict[str, list[Tensor]] = {name: [] for name in norms}
    out: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in (*modules, *norms)}
    with contextlib.ExitStack() as stack:
        for name, module in {**modules, **norms}.items():

            def after(_: nn.Module, args: Any, y: Tensor, name: str = name) -> None:  # noqa: ANN401
                out[name].append(_now(y))
                if name in fed and args:
                    fed[name].append(args[0])
                if name in modules:
                    runs.append(name)

            stack.callback(module.register_forward_hook(after).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Calls(lambda *pair: sums.extend(map(_now, pair)), reads.append))
        model(x)
    once = [name for name in runs if runs.count(name) == 1 and isinstance(out[name][0][0], Tensor)]
    return [_branch(name, out, fed, reads, sums) for name in once]


def observe(model: nn.Module, branch: Branch, x: Tensor) -> Seen:
    """Run a model until a branch has been seen.

    Args:
        model: In eval mode.
        branch: Of this model.
        x: `[n, ...]` inputs of the model.
    """
    found: dict[str, Tensor] = {}
    end: list[tuple[Tensor, int]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found["x"] = (args[0] if args else kwargs["input"]).clone()

    def after(_: nn.Module, __: object, y: Tensor) -> None:
        found["y"] = y.clone()  # an activation may overwrite it
        end.append(_now(y))
        if not branch.summed:
            raise _EnoughError

    def add(left: Tensor, right: Tensor) -> None:
        for mine, other in ((left, right), (right, left)):
            if end and _same(_now(mine), end[0]):
                found["other"] = other.clone()
                raise _EnoughError

    with contextlib.ExitStack() as stack:
        layer, last = model.get_submodule(branch.layer), model.get_submodule(branch.end)
        stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(last.register_forward_hook(after).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(contextlib.suppress(_EnoughError))
        stack.enter_context(_Calls(add) if branch.summed else contextlib.nullcontext())
        model(x)
    return Seen(found["x"], found["y"], found.get("other"))


def _now(tensor: Tensor) -> tuple[Tensor, int]:
    """Return a tensor with the version of its values: an activation in place makes another."""
    return tensor, getattr(tensor, "_version", 0)


def _same(one: tuple[Tensor, int], other: tuple[Tensor, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


class _EnoughError(Exception):
    """The rest of the forward pass is not needed."""


class _Calls(TorchFunctionMode):
    """Tells of the tensors of every call that makes a tensor, before it is made if it is a sum.

    Args:
        summed: Told of the two tensors of one shape that are to be added.
        read: Told of each tensor that another was made of.
    """

    def __init__(
        self,
        summed: Callable[[Tensor, Tensor], None],
        read: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._summed, self._read = summed, read

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        tensors = [v for v in (*args, *(kwargs or {}).values()) if isinstance(v, Tensor)]
        if getattr(func, "__name__", "") in _SUMS and len(tensors) == 2:
            left, right = tensors
            if left.shape == right.shape:
                self._summed(left, right)
        result = func(*args, **(kwargs or {}))
        if self._read is not None and isinstance(result, Tensor):  # not a mere x.dim()
            for value in tensors:
                self._read(value)
        return result


def _branch(
    layer: str,
    out: Mapping[str, list[tuple[Tensor, int]]],
    fed: Mapping[str, list[Tensor]],
    reads: Sequence[Tensor],
    sums: Sequence[tuple[Tensor, int]],
) -> Branch:
    y = out[layer][0][0]
    readers = [name for name, inputs in fed.items() if any(v is y for v in inputs)]
    alone = len(readers) == 1 and len(fed[readers[0]]) == 1 and sum(v is y for v in reads) == 1
    norm = readers[0] if alone else None
    end = out[norm or layer][0]
    return Branch(layer, norm, any(_same(end, summand) for summand in sums))


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is an affine batch norm with statistics, and nothing more."""
    return (
        isinstance(module, _NORM)
        and type(module).forward in (_NORM.forward, nn.SyncBatchNorm.forward)
        and module.affine
        and module.track_running_stats
    )
