"""Put gates before the layers that read channels: the foreign modules are not edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bnnkit.graph.patches import is_regression
from bnnkit.graph.structure import UNGATED, Structure

__all__ = ["Attachment", "FixedGates", "Gates", "attach"]


_Hook = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]
]


class Gates(Protocol):
    """Whatever holds the gate variables.

    Attributes:
        folded: Whether gates that a whole batch shares are multiplied into the weights that read
            them, which are far fewer numbers than the activations.
    """

    @property
    def folded(self) -> bool:
        """Tell so for the forward pass at hand."""

    def begin(self, batch: int) -> None:
        """Prepare the gates of one forward pass, the same for every reader of a class."""

    def theta(self, first: int, size: int) -> Tensor:
        """Return the gates of consecutive units: `[size]`, or `[batch, size]` per example."""

    def multiply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return `x` times its gates; `theta` is broadcastable to `x`."""


class FixedGates:
    """Gates with given values: what a decision looks like before anything is removed.

    Args:
        values: `[units]`.
    """

    folded = False  # the proof multiplies what the reader gets

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def begin(self, batch: int) -> None:
        """Nothing to prepare."""

    def theta(self, first: int, size: int) -> Tensor:
        """Return `[size]` values."""
        return self.values[first : first + size]

    def multiply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return the product."""
        return x * theta


class Attachment:
    """Hooks that gate a model; `detach` takes every one of them off again."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def attach(model: nn.Module, structure: Structure, gates: Gates) -> Attachment:
    """Gate what every reader of a removable class reads, with one variable per unit.

    The gate is one multiplicative variable per unit, tied over all readers of its class, applied
    to the tensor that the reader gets: after normalisation, activation and pooling. A closed
    unit is then read by nobody, which makes its removal exact.

    Args:
        model: The analysed model, or a copy of it.
        structure: Its channel classes.
        gates: Where the variables come from.
    """

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        gates.begin(1 if x is None else x.shape[0])

    handles = [model.register_forward_pre_hook(begin, with_kwargs=True)]
    for name, units in structure.reads.items():
        layer = model.get_submodule(name)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        scaled = _ScaledWeight(layer) if is_regression(layer) else None
        hook = _reader_hook(structure, units, axis, gates, scaled)
        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        if scaled is not None:
            handles.append(layer.register_forward_hook(scaled.restore, always_call=True))
    return Attachment(handles)


class _ScaledWeight:
    """The weight of a reader, multiplied by its gates for one forward pass.

    Args:
        layer: A regression (`graph.patches`).
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self._own: nn.Parameter | None = None

    def multiply(self, theta: Tensor) -> None:
        """Put the product with `theta` `[channels read]` in the place of the weight."""
        own = cast(nn.Parameter, self.layer._parameters["weight"])
        self._own = own
        scaled = own * theta.to(own.dtype).reshape(1, -1, *[1] * (own.dim() - 2))
        self.layer._parameters["weight"] = cast(nn.Parameter, scaled)

    def restore(self, *_: object) -> None:
        """Put the parameter back, also where the forward pass failed."""
        if self._own is not None:
            self.layer._parameters["weight"], self._own = self._own, None


def _reader_hook(
    structure: Structure, units: Tensor, axis: int, gates: Gates, scaled: _ScaledWeight | None
) -> _Hook:
    lookup = _lookup(structure, units)

    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = args[0] if args else kwargs["input"]
        theta = lookup(gates)
        if scaled is not None and gates.folded:
            scaled.multiply(theta)
            return args, kwargs
        if theta.dim() == 2:
            theta = _per_example(theta, x.shape[0])
        if axis == 1:
            theta = theta.reshape([*theta.shape, *[1] * (x.dim() - 2)])
        elif theta.dim() == 2:
            theta = theta.reshape([theta.shape[0], *[1] * (x.dim() - 2), theta.shape[1]])
        gated = gates.multiply(x, theta)
        return ((gated, *args[1:]), kwargs) if args else (args, {**kwargs, "input": gated})

    return hook


def _per_example(theta: Tensor, rows: int) -> Tensor:
    """Match `[batch, channels]` gates to a reader whose first axis is not the batch alone."""
    batch = theta.shape[0]
    if rows == batch:
        return theta
    return theta.repeat_interleave(rows // batch, 0) if rows % batch == 0 else theta[0]


def _lookup(structure: Structure, units: Tensor) -> Callable[[Gates], Tensor]:
    """Return how a reader finds its gates; a reader of one whole class copies nothing."""
    parts = [
        c for c in structure.classes if bool(((units >= c.first) & (units < c.units.stop)).any())
    ]
    if len(parts) == 1 and torch.equal(units, torch.arange(parts[0].first, parts[0].units.stop)):
        only = parts[0]
        return lambda gates: gates.theta(only.first, only.size)
    # The parts side by side, then a one for the channels that have no gate, then a permutation.
    total = sum(c.size for c in parts)
    position = torch.full((structure.n_units + 1,), total)
    at = 0
    for c in parts:
        position[c.units] = torch.arange(at, at + c.size)
        at += c.size
    index = position[units]
    ungated = bool((units == UNGATED).any())
    identity = torch.equal(index, torch.arange(total))

    def lookup(gates: Gates) -> Tensor:
        pieces = [gates.theta(c.first, c.size) for c in parts]
        if ungated:
            pieces.append(torch.ones_like(pieces[0][..., :1]))
        joined = torch.cat(pieces, -1)
        return joined if identity else joined.index_select(-1, index.to(joined.device))

    return lookup
