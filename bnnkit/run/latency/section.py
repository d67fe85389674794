"""The latency section of a report: models against each other, by runtime, batch and threads.

Inputs are plain contiguous float32, the layout that a user's own call has; no `channels_last`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bnnkit.io.runtimes import Predictor
from bnnkit.run.latency.timing import Call, Timing, speedup, time_interleaved
from bnnkit.spec import Quantity

__all__ = ["Opener", "graphed", "latency_table", "torch_threads"]

Opener = Callable[..., Predictor]


def latency_table(
    openers: Mapping[str, Mapping[str, Opener]],
    input_shape: Sequence[int],
    batches: Sequence[int],
    threads: Sequence[int],
    *,
    device: str = "cpu",
    seconds: float = 3.0,
    generator: torch.Generator | None = None,
) -> list[dict[str, Any]]:
    """Measure the `latency` section of a report: a row for each runtime, batch and thread count.

    Args:
        openers: `{runtime: {model: opener}}`; the first model of a runtime is its reference. An
            opener is called with `threads=` because onnxruntime takes the count when it opens;
            `functools.partial(open_predictor, source, device=device)` is one.
        input_shape: Shape of one input, without batch.
        batches: Batch sizes.
        threads: Thread counts on the CPU; on CUDA the host's present count is the only one.
        device: `cpu` or `cuda`.
        seconds: Most time spent on a row, beside the warm-up.
        generator: Source of the inputs and of the order; None takes one with seed 0.

    Returns:
        Rows `{runtime, device, threads, batch, models: [{name, latency, spread, speedup}]}`;
        the spread is the interquartile range of the rounds. On CUDA the
        models that torch runs have a further row, `<runtime>+graph`: replayed as CUDA graphs.
    """
    generator = generator or torch.Generator().manual_seed(0)
    on_cuda = device.startswith("cuda")
    rows: list[dict[str, Any]] = []
    for count in [torch.get_num_threads()] if on_cuda else threads:
        with torch_threads(count):
            for runtime, models in openers.items():
                opened = {name: opener(threads=count) for name, opener in models.items()}
                for batch in batches:
                    x = torch.randn(batch, *input_shape, generator=generator).to(device)
                    for label, calls in _variants(runtime, opened, x):
                        timings = time_interleaved(
                            calls, max_seconds=seconds, device=device, generator=generator
                        )
                        row = {"runtime": label, "device": device, "threads": count}
                        rows.append({**row, "batch": batch, "models": _judged(timings)})
    return rows


def graphed(predictor: Predictor, x: Tensor) -> Call | None:
    """Capture a prediction as a CUDA graph: one launch in place of one for each kernel.

    Args:
        predictor: A model that torch runs on CUDA.
        x: Its input; the graph reads this very memory.

    Returns:
        The replay, or None where the model cannot be captured (it copies to the host, or its
        kernels depend on values).
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            for _ in range(3):  # the allocator and cuDNN settle before the capture
                predictor(x)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            predictor(x)
    except RuntimeError:
        return None
    return graph.replay


def _variants(
    runtime: str, opened: Mapping[str, Predictor], x: Tensor
) -> Iterator[tuple[str, dict[str, Call]]]:
    """Yield the ways to run these models on this input: as they are and, on CUDA, as graphs."""

    def call(predictor: Predictor) -> Call:
        return lambda: predictor(x)

    yield runtime, {name: call(predictor) for name, predictor in opened.items()}
    if x.is_cuda and all(p.form != "onnx" for p in opened.values()):
        graphs = {name: graphed(predictor, x) for name, predictor in opened.items()}
        captured = {name: replay for name, replay in graphs.items() if replay is not None}
        if len(captured) == len(graphs):
            yield f"{runtime}+graph", captured


def _judged(timings: Mapping[str, Timing]) -> list[dict[str, Any]]:
    """Put the timings of a row against its first."""
    reference = next(iter(timings.values()))
    return [
        {
            "name": name,
            "latency": timing.latency(),
            "spread": Quantity(timing.spread, "ms", len(timing.samples)),
            "speedup": Quantity(1.0, "x") if timing is reference else speedup(reference, timing),
        }
        for name, timing in timings.items()
    ]


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads for a while; None leaves its choice alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
