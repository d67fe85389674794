"""Measure what a model's layers take at several widths, so that a decision can be priced in ms.

Each layer is timed alone, at its real input size and a grid of widths, all points of a layer
interleaved; the quickest of a few rounds counts, since whatever disturbs a measurement adds to it.
Under onnxruntime a graph runs its layer several times side by side, so that bringing the input
into the blocked layout, which a net does once, weighs as little as it does there.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.graph.structure import Structure
from bnnkit.io.export import write_onnx
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.latency.layer_probe import Geometry, Probe, Use, observe
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.latency.table import LatencyCost, LatencyTable, LayerTimes, LayerUse
from bnnkit.run.latency.timing import Call, time_interleaved
from bnnkit.run.provenance import cpu_model

__all__ = ["calibrate"]

_RUNTIMES = ("onnxruntime", "torch")
_ROUNDS = 4
_SAMPLE_MS = 2.0  # of `time_interleaved`
_OPEN_MS = 4.0  # to build a layer and open its session
_MEAN_SHARE = 0.4  # of a layer's full time that a point of its grid takes on average
# Of the full width, by detail: the multiples of 8 that are measured between the ends.
_SHARES = {3: (0.25, 0.5, 0.75), 2: (0.25, 0.5), 1: (0.5,)}
_CHUNK_BYTES = 1 << 28

Point = tuple[Geometry, int, int]


def calibrate(
    model: nn.Module,
    structure: Structure,
    input_shape: tuple[int, ...],
    *,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    batch: int = 1,
    threads: int = 1,
    budget_seconds: float = 15.0,
    generator: torch.Generator | None = None,
) -> LatencyCost:
    """Measure the latency of a model's layers, and of what lies between them.

    Args:
        model: The analysed model at full width; untouched.
        structure: Its channel classes; only widths that can change are varied.
        input_shape: `[...]` of one input, without batch.
        runtime: `onnxruntime` or `torch`.
        device: `cpu` or `cuda`.
        batch: Batch size.
        threads: CPU threads. With one, the thread's own time is counted, so that other work on
            the machine disturbs little.
        budget_seconds: About how long the layers may take; it decides how many widths are
            measured. Exporting and timing the whole model comes on top.
        generator: Source of weights, inputs and order, on the CPU; None takes one with seed 0.

    Raises:
        UsageError: An unknown runtime, or one that is not measured on this device.
        StructureError: The model has no layer to measure.
        ArtefactError: The model cannot be exported for onnxruntime.
    """
    if runtime not in _RUNTIMES:
        raise UsageError(
            "Measuring latency", f"the runtime {runtime!r}", "it is not known",
            did_you_mean(runtime, _RUNTIMES),
        )  # fmt: skip
    if device.startswith("cuda") and runtime != "torch":
        raise UsageError(
            "Measuring latency", f"{runtime} on {device!r}", "it is measured on the CPU only",
            "Measure torch there, or onnxruntime on 'cpu'.",
        )  # fmt: skip
    generator = generator or torch.Generator().manual_seed(0)
    uses = observe(model, input_shape)
    meter = _Meter(Probe(runtime, device, threads, generator))
    other = batch // 4 or 4 * batch
    with torch_threads(threads):
        rough = meter.layers(_at_full(uses), batch)
        axes = _grids(structure, uses, rough, budget_seconds, meter.probe.copies)
        kinds = list(axes)
        times = tuple(meter.grid(kind, *axes[kind], batch) for kind in kinds)
        full = {kind: t.ms[-1][-1] for kind, t in zip(kinds, times, strict=True)}
        elsewhere = dict(zip(kinds, meter.layers(_at_full(uses), other), strict=True))
        whole = meter.whole(model, input_shape, (batch, other))
    rest = whole[batch] - _sum(uses, full), whole[other] - _sum(uses, elsewhere)
    fixed, growing = _split(*rest, batch, other)
    values = sum(use.positions * use.geometry.out for use in uses.values())
    layers = tuple(
        LayerUse(name, kinds.index(use.geometry), use.calls, use.positions)
        for name, use in uses.items()
    )
    hardware = torch.cuda.get_device_name() if device.startswith("cuda") else cpu_model()
    facts = (runtime, device, hardware, threads, batch)
    table = LatencyTable(*facts, whole[batch], fixed, growing / values, times, layers)
    return LatencyCost(table, structure)


def _at_full(uses: dict[str, Use]) -> list[Point]:
    """Return every kind of layer at its full widths."""
    return [(g, g.out, g.into) for g in dict.fromkeys(use.geometry for use in uses.values())]


def _sum(uses: dict[str, Use], ms: dict[Geometry, float]) -> float:
    return sum(use.calls * ms[use.geometry] for use in uses.values())


def _split(rest: float, rest_other: float, batch: int, other: int) -> tuple[float, float]:
    """Split the ms between the layers into what stays and what grows with the values written.

    What does not grow with the batch is no work on values.
    """
    growing = (rest - rest_other) / (batch - other) * batch
    low, high = sorted((0.0, rest))
    growing = min(max(growing, low), high)
    return rest - growing, growing


@dataclass(frozen=True)
class _Meter:
    """Times layers and the whole model, in ms."""

    probe: Probe

    def layers(self, points: Sequence[Point], batch: int) -> list[float]:
        """Return the time of one layer each, less what any call costs."""
        copies = self.probe.copies
        empty = (Geometry(nn.Linear, 1, 1, ()), 1, 1)
        with self.probe.calls([*points, empty] if copies > 1 else points, batch) as calls:
            found = self._quickest(calls)
        call_ms = found.pop() if copies > 1 else 0.0
        return [max(ms - call_ms, 0.05 * ms) / copies for ms in found]

    def grid(self, kind: Geometry, out: list[int], into: list[int], batch: int) -> LayerTimes:
        """Return the times of a kind of layer at a grid of widths."""
        points = [(kind, o, i) for o in out for i in into]
        step = max(4, _CHUNK_BYTES // kind.bytes(batch, self.probe.copies))
        found: list[float] = []
        for at in range(0, len(points), step):
            found += self.layers(points[at : at + step], batch)
        rows = [tuple(found[at : at + len(into)]) for at in range(0, len(found), len(into))]
        return LayerTimes(str(kind), tuple(out), tuple(into), tuple(rows))

    def whole(
        self, model: nn.Module, input_shape: tuple[int, ...], batches: Sequence[int]
    ) -> dict[int, float]:
        """Return the time of the whole model at each batch size."""
        probe, out = self.probe, {}
        with tempfile.TemporaryDirectory() as folder:
            source: nn.Module | Path = copy.deepcopy(model)
            if probe.runtime == "onnxruntime":
                example = torch.zeros(max(2, batches[0]), *input_shape)
                source = write_onnx(model, example, Path(folder) / "model.onnx").path
            predictor = open_predictor(source, device=probe.device, threads=probe.threads)
            for batch in batches:
                x = torch.randn(batch, *input_shape, generator=probe.generator).to(probe.device)
                out[batch] = min(self._quickest([partial(predictor, x)] * 3))
        return out

    def _quickest(self, calls: Sequence[Call]) -> list[float]:
        """Return the quickest of a few interleaved rounds of each call."""
        timings = time_interleaved(
            {str(i): call for i, call in enumerate(calls)},
            min_rounds=_ROUNDS,
            min_seconds=0,
            max_seconds=math.inf,
            warmup=1,
            device=self.probe.device,
            own=self.probe.threads == 1,
            generator=self.probe.generator,
        )
        return [min(timing.samples) for timing in timings.values()]


def _grids(
    structure: Structure, uses: dict[str, Use], full_ms: list[float], seconds: float, copies: int
) -> dict[Geometry, tuple[list[int], list[int]]]:
    """Return the widths out and in that are measured, as many as the time allows."""
    slots = structure.slots
    sliced: dict[Geometry, set[int]] = {use.geometry: set() for use in uses.values()}
    for name, use in uses.items():
        sliced[use.geometry] |= {a for a in (0, 1) if (f"{name}.weight".lstrip("."), a) in slots}
    for detail in _SHARES:
        axes = {kind: _axes(kind, free, detail) for kind, free in sliced.items()}
        spent = 0.0
        for (out, into), ms in zip(axes.values(), full_ms, strict=True):
            call = _MEAN_SHARE * ms * copies
            point = _OPEN_MS + 2 * call + _ROUNDS * max(_SAMPLE_MS, call)
            spent += len(out) * len(into) * point / 1e3
        if spent <= seconds:
            break
    return axes


def _axes(kind: Geometry, free: set[int], detail: int) -> tuple[list[int], list[int]]:
    """Return the widths of both axes, of which these can change; whole groups only."""
    out = _widths(kind.out, detail) if 0 in free else [kind.out]
    into = _widths(kind.into, detail) if 1 in free else [kind.into]
    if kind.groups > 1:
        unit = kind.out // kind.groups if kind.depthwise else kind.groups
        out = sorted({-(-w // unit) * unit for w in out})
    return out, into


def _widths(full: int, detail: int) -> list[int]:
    """Return widths of every kind (multiples of 8, of 4, odd) up to the full one, ascending.

    Args:
        full: The full width; it is the last.
        detail: 1 for the fewest widths, 3 for the most.
    """
    if full <= 4 * detail:
        return list(range(1, full + 1))
    top = full - full % 8
    middle = [max(8, round(full * share / 8) * 8) for share in _SHARES[detail]]
    half = middle[len(middle) // 2]
    found = {1, 4, 8, *middle, top - 4, top - 1, top, full}
    if detail > 1:
        found |= {half - 1, half + 1, half + 4}
    return sorted(w for w in found if 0 < w <= full)
