"""Measured latency as a cost: times of a model's layers at several widths, and what they tell.

A net's latency is taken as a sum,

    t(k) = fixed + per_value × values(k) + Σ_layers calls × t_layer(out(k), in(k)),

where the layer times are interpolated between measured widths, and what is between the layers
(norms, activations, additions) splits into a part that no decision changes and one that follows
the number of values that the layers write.

Kernels work in blocks of channels, and some take another way where a width is no multiple of 4: a
layer with 9 channels can be slower than one with 12. So a width is interpolated only between
measured widths of its own kind: multiples of 8, other multiples of 4, and the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import DataError, StructureError
from bnnkit.graph.cost import Widths
from bnnkit.graph.structure import UNGATED, Structure

__all__ = ["BLOCKS", "LatencyCost", "LatencyTable", "LayerTimes", "LayerUse", "interpolation"]

BLOCKS = (32, 16, 8, 4, 1)
"""Width steps that are considered, in channels."""

_FREE = 1.02
"""Most that a layer's time may grow where its widths are rounded up to a step that pays."""

_SCHEMA = 1


@dataclass(frozen=True)
class LayerTimes:
    """Times of one kind of layer at several widths.

    Args:
        kind: What it is, in words.
        out: Channels out that were measured, ascending; the last is the full width.
        into: Channels in (of a group) that were measured, ascending; the last is the full width.
        ms: `[out, into]` ms for a batch.
    """

    kind: str
    out: tuple[int, ...]
    into: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerUse:
    """A layer of the model.

    Args:
        name: Its path.
        times: Index of its times in the table.
        calls: How often it runs for one input.
        positions: Values that it writes in one channel, for one input and all calls.
    """

    name: str
    times: int
    calls: int
    positions: int


@dataclass(frozen=True)
class LatencyTable:
    """What a calibration measured, for one runtime, device, batch and thread count.

    Args:
        runtime: `torch` or `onnxruntime`.
        device: `cpu` or `cuda`.
        hardware: Name of the processor.
        threads: CPU threads.
        batch: Batch size.
        whole_ms: Time of the whole model at full width, in ms.
        fixed_ms: Time that no decision changes, beside the layers, in ms.
        per_value_ms: Time between layers for each value of one input that they write, in ms.
        times: Layer times by kind of layer.
        layers: The layers, in the order in which they run first.
    """

    runtime: str
    device: str
    hardware: str
    threads: int
    batch: int
    whole_ms: float
    fixed_ms: float
    per_value_ms: float
    times: tuple[LayerTimes, ...]
    layers: tuple[LayerUse, ...]

    def to_json(self) -> str:
        """Return the table as JSON."""
        return json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> LatencyTable:
        """Read what `to_json` wrote.

        Raises:
            DataError: It is no latency table of this version.
        """
        try:
            body: dict[str, Any] = json.loads(text)
            if body.pop("schema") != _SCHEMA:
                raise ValueError("another schema")
            times = tuple(
                LayerTimes(
                    t["kind"], tuple(t["out"]), tuple(t["into"]), tuple(map(tuple, t["ms"]))
                )
                for t in body.pop("times")
            )
            layers = tuple(LayerUse(**use) for use in body.pop("layers"))
            return LatencyTable(times=times, layers=layers, **body)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                "Reading a latency table", f"{type(error).__name__}: {str(error)[:200]}",
                f"it is not one of version {_SCHEMA}", "Measure it again.",
            ) from error  # fmt: skip

    def blocks(self) -> dict[str, int]:
        """Return `{layer: channels}` the step of the widths that pays, one of `BLOCKS`.

        The largest step to which both widths can be rounded up without the layer taking more time:
        channels between two multiples cost nothing, so there is no sense in leaving them out.
        """
        found = [_step([_rounded_means(times)]) for times in self.times]
        return {use.name: found[use.times] for use in self._prunable()}

    def block(self) -> int:
        """Return the step of the widths that pays over all layers, one of `BLOCKS`."""
        return _step(_rounded_means(self.times[u.times], u.calls) for u in self._prunable())

    def _prunable(self) -> list[LayerUse]:
        """Return the layers that were measured at several widths.

        Raises:
            StructureError: There is none.
        """
        found = [
            u for u in self.layers if len(self.times[u.times].out + self.times[u.times].into) > 2
        ]
        if not found:
            raise StructureError(
                "Finding the widths that pay", f"{len(self.layers)} layers of one width each",
                "nothing of them can be removed", "Give a number with --round-to.",
            )  # fmt: skip
        return found


class LatencyCost:
    """Latency in ms as a cost of a decision.

    Args:
        table: What was measured.
        structure: The channel classes of the model that it was measured on.

    Raises:
        StructureError: The table belongs to another model.
    """

    unit = "ms"

    def __init__(self, table: LatencyTable, structure: Structure) -> None:
        self.table = table
        slots = []
        for use in table.layers:
            times = table.times[use.times]
            for axis, full in ((0, times.out[-1]), (1, times.into[-1])):
                units = structure.slots.get((f"{use.name}.weight".lstrip("."), axis))
                slots.append(torch.full((full,), UNGATED) if units is None else units)
                if len(slots[-1]) != full:
                    raise StructureError(
                        "Using a latency table", f"layer {use.name!r} with {full} channels",
                        f"the model has {len(slots[-1])}", "Measure it again.",
                    )  # fmt: skip
        self._widths = Widths(slots, structure.n_units)
        self._rows = [_Rows(times) for times in table.times]
        self._uses = [
            torch.tensor([i for i, use in enumerate(table.layers) if use.times == kind])
            for kind in range(len(table.times))
        ]
        self._calls = torch.tensor([use.calls for use in table.layers], dtype=torch.float64)
        positions = torch.tensor([use.positions for use in table.layers], dtype=torch.float64)
        self._per_channel = table.per_value_ms * positions

    def total(self, keep: Tensor) -> float:
        """Return the latency of the whole net in ms, for `keep` `[units]` bool."""
        everything = torch.ones(len(self.table.layers), dtype=torch.bool)
        left = self._widths.left(keep)
        return self.table.fixed_ms + float(self._layers(left[None], everything)[0])

    def marginal(self, keep: Tensor) -> Tensor:
        """Return `[units]` ms saved if one more unit goes; 0 for those already closed.

        Within a block of channels that is nothing, and at its edge the whole stair.
        """
        out = torch.zeros(len(keep), dtype=torch.float64)
        kept = keep.cpu().nonzero().reshape(-1)
        # Units that lie on the same axes alike save alike.
        _, kind = torch.unique(self._widths.per_unit[kept], dim=0, return_inverse=True)
        groups = [kept[kind == i] for i in range(int(kind.max()) + 1 if len(kind) else 0)]
        saved = self.paths(keep, [group[:1] for group in groups])
        for group, value in zip(groups, saved, strict=True):
            out[group] = value[0]
        return out

    def paths(self, keep: Tensor, orders: Sequence[Tensor]) -> list[Tensor]:
        """Return for each order `[n]` ms saved when its first 1, 2 … n units have gone."""
        left = self._widths.left(keep)
        out = []
        for order in orders:
            changed = self._widths.per_unit[order].any(0).reshape(-1, 2).any(1)
            after = self._widths.along(left, order)
            out.append(self._layers(left[None], changed) - self._layers(after, changed))
        return out

    def _layers(self, widths: Tensor, chosen: Tensor) -> Tensor:
        """Return `[n]` ms of the chosen layers `[layers]` bool at widths `[n, 2 layers]`."""
        pairs = widths.long().reshape(len(widths), len(self.table.layers), 2)
        total = torch.zeros(len(widths), dtype=torch.float64)
        for rows, uses in zip(self._rows, self._uses, strict=True):
            uses = uses[chosen[uses]]
            if len(uses):
                out, into = pairs[:, uses].unbind(2)
                total += rows.at(out, into) @ self._calls[uses]
                total += out.double() @ self._per_channel[uses]
        return total


class _Rows:
    """Times of one kind of layer at any widths."""

    def __init__(self, times: LayerTimes) -> None:
        self._ms = torch.tensor(times.ms, dtype=torch.float64)
        self._out, self._into = interpolation(times.out), interpolation(times.into)

    def at(self, out: Tensor, into: Tensor) -> Tensor:
        """Return ms at widths of any shape."""
        return ((self._out[out] @ self._ms) * self._into[into]).sum(-1)


def interpolation(measured: Sequence[int]) -> Tensor:
    """Return the weights of measured widths at every width, each between those of its kind.

    Args:
        measured: Widths, ascending.

    Returns:
        `[largest + 1, measured]`, rows that sum to 1; beyond the outermost width of a kind its
        value stays.
    """
    known = torch.tensor(measured)
    widths = torch.arange(measured[-1] + 1)
    out = torch.zeros(len(widths), len(known), dtype=torch.float64)
    kinds, known_kinds = _kind(widths.clamp(min=1)), _kind(known)
    for kind in (8, 4, 1):
        rows, same = (kinds == kind).nonzero()[:, 0], (known_kinds == kind).nonzero()[:, 0]
        same = same if len(same) else torch.arange(len(known))
        above = torch.searchsorted(known[same], widths[rows])
        high = same[above.clamp(max=len(same) - 1)]
        low = torch.where(known[high] > widths[rows], same[(above - 1).clamp(min=0)], high)
        gap = (known[high] - known[low]).clamp(min=1).double()
        share = ((widths[rows] - known[low]) / gap).clamp(min=0, max=1)
        out[rows, low] += 1 - share
        out[rows, high] += share
    return out


def _kind(widths: Tensor) -> Tensor:
    """Return 8, 4 or 1: the largest of these that divides each width."""
    return torch.where(widths % 8 == 0, 8, torch.where(widths % 4 == 0, 4, 1))


def _rounded_means(times: LayerTimes, calls: int = 1) -> Tensor:
    """Return `[len(BLOCKS)]` mean time over all widths, each rounded up to a multiple."""
    rows = _Rows(times)
    out = []
    for step in BLOCKS:
        ends = [
            (-(-torch.arange(1, full + 1) // step) * step).clamp(max=full)
            for full in (times.out[-1], times.into[-1])
        ]
        weights = [
            axis[end].mean(0) for axis, end in zip((rows._out, rows._into), ends, strict=True)
        ]
        out.append(weights[0] @ rows._ms @ weights[1])
    return calls * torch.stack(out)


def _step(means: Iterable[Tensor]) -> int:
    """Return the largest step whose rounding costs nothing."""
    total = torch.stack(list(means)).sum(0)
    return next(s for s, t in zip(BLOCKS, total.tolist(), strict=True) if t <= _FREE * total[-1])
