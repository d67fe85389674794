"""The speedup that a decision really brings, timed on untrained slim models until it is enough."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError
from bnnkit.io.export import write_onnx
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.latency.timing import speedup, time_interleaved
from bnnkit.run.pruning.goals import Goal
from bnnkit.run.pruning.job import Job

__all__ = ["fast_enough"]

_TRIES = 4
_MARGIN = 1.02
"""Aimed above the target, so that the interval of the last measurement may hold it."""


def fast_enough(
    job: Job, goal: Goal, close: Callable[[float], Tensor], build: Callable[[Tensor], nn.Module]
) -> Tensor:
    """Lower the predicted latency until the measured speedup is the one asked for.

    A sum of layers timed alone is not the time of a net, so the prediction orders decisions and
    the measurement decides.

    Args:
        job: The run; its target has a speedup.
        goal: The predicted latency to begin with, in ms.
        close: Returns the decision for a predicted latency.
        build: Returns the slim model of a decision.

    Returns:
        The first decision that is fast enough; else the fastest that was measured, and a note.

    Raises:
        UsageError: The latency to begin with cannot be reached.
    """
    wanted = job.config.target.speedup
    assert wanted is not None
    limit, keep = goal.limit, close(goal.limit)
    fastest, most, why = keep, 0.0, f"the fastest of {_TRIES} tries"
    for attempt in range(_TRIES):
        if attempt:
            try:
                keep = close(limit)
            except UsageError:
                why = "no more can be removed"
                break
        job.progress.start("timing the decision")
        found = _measured(job, build(keep))
        job.progress.stop()
        if found >= wanted:
            return keep
        if found > most:
            fastest, most = keep, found
        limit *= found / (wanted * _MARGIN)
    job.notes.append(
        f"the decision was measured {most:.2f} times as fast, not {wanted:g} times: {why}; "
        "a gate judges the final measurement"
    )
    return fastest


def _measured(job: Job, slim: nn.Module) -> float:
    """Return original / slim latency at the setting of the target."""
    at = job.config.timed_at()
    count, device = int(at["threads"]), at["device"]
    generator = torch.Generator().manual_seed(0)
    shape = job.structure.input_shape
    x = torch.randn(int(at["batch"]), *shape, generator=generator).to(device)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(torch_threads(count))
        calls = {
            name: partial(_opened(model, at, x, folder / f"{name}.onnx", count), x)
            for name, model in (("original", job.original), ("slim", slim))
        }
        timings = time_interleaved(
            calls, device=device, own=count == 1 and device == "cpu", generator=generator
        )
    return speedup(timings["original"], timings["slim"]).value


def _opened(
    model: nn.Module, at: dict[str, str], x: Tensor, path: Path, threads: int
) -> Predictor:
    source: nn.Module | Path = copy.deepcopy(model)
    if at["runtime"] == "onnxruntime":
        example = torch.zeros(2, *x.shape[1:])
        source = write_onnx(model, example, path).path
    return open_predictor(source, device=at["device"], threads=threads)
