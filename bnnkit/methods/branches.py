"""Where the output of a layer goes: into a batch norm, and into a sum with another branch.

A layer's output (or what one batch norm makes of it) that is added to something else is one
branch of a residual block. `find_branches` looks once; `observe` runs a model and returns, at some
output positions, what a layer got, what came out of its branch, and what that was added to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bnnkit.graph.patches import outputs, patches, positions

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
    """What one forward pass showed of a branch, at `n` positions of each of `b` inputs.

    Args:
        at: `[n]` the output positions of the layer, numbered through.
        sums: `[b n]` sums of the patches that the layer got, which tell whether they changed.
        a: `[b n, columns]` the patches themselves, or None where they are not wanted.
        y: `[b n, out]` outputs of the branch.
        other: `[b n, out]` what they were added to, or None.
    """

    at: Tensor
    sums: Tensor
    a: Tensor | None
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

            def after(
                _: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                y: Tensor,
                name: str = name,
            ) -> None:
                out[name].append(_now(y))
                if name in fed:
                    fed[name].append(_first(args, kwargs))
                if name in modules:
                    runs.append(name)

            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Calls(lambda *pair: sums.extend(map(_now, pair)), reads.append))
        model(x)
    once = [name for name in runs if runs.count(name) == 1 and isinstance(out[name][0][0], Tensor)]
    found = [_branch(name, modules[name], norms, out, fed, reads, sums) for name in once]
    return [
        replace(branch, summed=False)
        if branch.summed and _other_follows(model, branch, x)
        else branch
        for branch in found
    ]


def _other_follows(model: nn.Module, branch: Branch, x: Tensor) -> bool:
    """Tell whether what a branch is added to was itself computed from the branch."""

    def first(_: Branch, count: int) -> Tensor:
        return torch.arange(count)

    def disturb(_: nn.Module, __: object, y: Tensor) -> Tensor:
        return y + y.detach().abs().mean() + 1

    plain = observe(model, [branch], x, first, inputs=False)[branch.layer].other
    handle = model.get_submodule(branch.end).register_forward_hook(disturb)
    try:
        disturbed = observe(model, [branch], x, first, inputs=False)[branch.layer].other
    finally:
        handle.remove()
    return plain is None or disturbed is None or not torch.equal(plain, disturbed)


def observe(
    model: nn.Module,
    branches: Sequence[Branch],
    x: Tensor,
    choose: Callable[[Branch, int], Tensor],
    *,
    inputs: bool = True,
) -> dict[str, Seen]:
    """Run a model until some branches have been seen.

    Args:
        model: In eval mode.
        branches: Of this model, of regressions (`graph.patches`).
        x: `[n, ...]` inputs of the model.
        choose: Returns the positions to look at, from a branch and their number.
        inputs: Whether to keep patches; of many layers they fill the memory.

    Returns:
        What was seen, by the name of the layer.
    """
    watch = _Watch(model, branches, choose, inputs=inputs)
    with contextlib.ExitStack() as stack:
        stack.callback(watch.detach)
        stack.enter_context(torch.no_grad())
        stack.enter_context(contextlib.suppress(_EnoughError))
        if any(branch.summed for branch in branches):
            stack.enter_context(_Calls(watch.add))
        model(x)
    return {layer: Seen(**parts) for layer, parts in watch.found.items()}


class _Watch:
    """Hooks that keep rows of what passes; activations in place may overwrite the rest later."""

    def __init__(
        self,
        model: nn.Module,
        branches: Sequence[Branch],
        choose: Callable[[Branch, int], Tensor],
        *,
        inputs: bool,
    ) -> None:
        self._inputs = inputs
        self.found: dict[str, dict[str, Any]] = {}
        self._choose = choose
        self._waiting = len(branches)
        self._ends: list[tuple[tuple[Tensor, int], str, nn.Module]] = []
        self._handles = []
        for branch in branches:
            layer = model.get_submodule(branch.layer)
            hook = self._layer_hook(branch, layer)
            self._handles.append(layer.register_forward_hook(hook, with_kwargs=True))
            end = model.get_submodule(branch.end)
            self._handles.append(end.register_forward_hook(self._end_hook(branch, layer)))

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def add(self, left: Tensor, right: Tensor) -> None:
        """Keep what an end is added to."""
        for mine, other in ((left, right), (right, left)):
            for end, name, layer in self._ends:
                if _same(_now(mine), end):
                    self._keep(name, "other", other, layer)
                    self._ends = [e for e in self._ends if e[1] != name]
                    self._done()
                    break

    def _layer_hook(self, branch: Branch, layer: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> None:
            x = _first(args, kwargs)
            at = self._choose(branch, positions(y, layer)).to(y.device)
            rows = patches(x.float(), layer, at).flatten(0, 1)
            kept = rows if self._inputs else None
            self.found[branch.layer] = {"at": at, "sums": rows.sum(1), "a": kept, "other": None}

        return hook

    def _end_hook(self, branch: Branch, layer: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, y: Tensor) -> None:
            self._keep(branch.layer, "y", y, layer)
            if branch.summed:
                self._ends.append((_now(y), branch.layer, layer))
            else:
                self._done()

        return hook

    def _keep(self, name: str, part: str, value: Tensor, layer: nn.Module) -> None:
        at = self.found[name]["at"]
        self.found[name][part] = outputs(value.float(), layer)[:, at].flatten(0, 1)

    def _done(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            raise _EnoughError


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the input of a layer, however it was called."""
    found: Tensor = args[0] if args else kwargs["input"]
    return found


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
        is_sum = getattr(func, "__name__", "") in _SUMS and (kwargs or {}).get("alpha", 1) == 1
        if is_sum and len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
            self._summed(*tensors)
        result = func(*args, **(kwargs or {}))
        if self._read is not None and isinstance(result, Tensor):  # not a mere x.dim()
            for value in tensors:
                self._read(value)
        return result


def _branch(
    name: str,
    layer: nn.Module,
    norms: Mapping[str, nn.Module],
    out: Mapping[str, list[tuple[Tensor, int]]],
    fed: Mapping[str, list[Tensor]],
    reads: Sequence[Tensor],
    sums: Sequence[tuple[Tensor, int]],
) -> Branch:
    y = out[name][0][0]
    readers = [norm for norm, inputs in fed.items() if any(v is y for v in inputs)]
    alone = len(readers) == 1 and len(fed[readers[0]]) == 1 and sum(v is y for v in reads) == 1
    # behind a linear layer a norm of sequences has the tokens as its channels
    fits = alone and _width(norms[readers[0]]) == _width(layer)
    fits = fits and (y.dim() == 2 or not isinstance(layer, nn.Linear))
    norm = readers[0] if fits else None
    end = out[norm or name][0]
    return Branch(name, norm, any(_same(end, summand) for summand in sums))


def _width(module: nn.Module) -> int:
    """Return how many outputs a layer or a norm has."""
    return len(cast(Tensor, module.weight))


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is an affine batch norm with statistics, and nothing more."""
    return (
        isinstance(module, _NORM)
        and type(module).forward in (_NORM.forward, nn.SyncBatchNorm.forward)
        and module.affine
        and module.track_running_stats
    )
