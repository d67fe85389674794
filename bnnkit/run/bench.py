"""`bench`: the latency of several models in any form, interleaved, each against the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bnnkit.errors import UsageError
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.run.forms import (
    ModelSource,
    Opened,
    checked,
    describe_model,
    distinct_names,
    open_form,
)
from bnnkit.run.latency.section import Opener, latency_table
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.spec import Report

__all__ = ["MIXED", "bench"]

MIXED = "mixed"
"""Runtime of rows whose models run in different ones; the names say which."""

_RUNTIMES = {"torch": "torch", "pt2": "torch.export", "onnx": "onnxruntime"}


def bench(
    models: Sequence[ModelSource],
    *,
    input_shape: tuple[int, ...] | None = None,
    batches: Sequence[int] = (1, 32),
    threads: Sequence[int] = (1,),
    device: str = "auto",
    seconds: float = 3.0,
    seed: int = 0,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Time several models against each other: in each round every one runs once.

    All models of a row run in the same rounds, whatever their form, so that each speedup is a
    paired ratio against the first model. Inputs are seeded noise.

    Args:
        models: Modules, files in any form, or files with their architecture; the first is the
            reference. The same model may come twice: its speedup is the noise of the machine.
        input_shape: Shape of one input, without batch; None takes what the models know.
        batches: Batch sizes.
        threads: Thread counts on the CPU.
        device: `cpu`, `cuda`, or `auto`: CUDA where every model can run on it.
        seconds: Most time a row, beside the warm-up.
        seed: Seed of the inputs and of the order within a round.
        progress: Who is told.
        argv: The command line, for the report.

    Returns:
        A report with `latency`.

    Raises:
        BnnkitError: A model cannot be opened or does not run on these inputs.
        UsageError: Nobody knows the input shape, or the models differ in it.
    """
    started, progress = datetime.now(UTC), progress or SilentProgress()
    if not models:
        raise UsageError("Timing models", "no model", "there is nothing to time", "Name a file.")
    opened, kind = _open_all(models, device, progress)
    shape = input_shape or _common_shape(opened)
    generator = torch.Generator().manual_seed(seed)
    for one in opened[1:]:  # those of the first are shown with the report
        for note in one.notes:
            progress.note(f"{one.name}: {note}")
    for one in opened:
        for batch in batches:
            checked(one)(torch.randn(batch, *shape, generator=generator))
    counts = threads if kind == "cpu" else threads[:1]
    openers = _openers(opened, kind)
    rows: list[dict[str, Any]] = []
    progress.start("Timing", len(counts) * len(batches))
    for count in counts:
        for batch in batches:
            rows += latency_table(
                openers,
                shape,
                [batch],
                [count],
                device=kind,
                seconds=seconds,
                generator=generator,
            )
            progress.advance()
    progress.stop()
    sections = {
        "model": describe_model(opened[0]),
        "models": [{"name": one.name, **describe_model(one)} for one in opened],
        "input_shape": list(shape),
        "latency": rows,
    }
    provenance = collect_provenance(argv, seed=seed, device=kind, started=started)
    return Report("bench", provenance, sections)


def _open_all(
    models: Sequence[ModelSource], device: str, progress: Progress
) -> tuple[list[Opened], str]:
    """Open every model on one device: that of all, or a refusal."""
    kind = choose_device(device).type
    names = distinct_names(models)
    opened = [open_form(m, name=n, device=kind) for m, n in zip(models, names, strict=True)]
    elsewhere = [one.name for one in opened if not one.predictor.device.startswith(kind)]
    if not elsewhere:
        return opened, kind
    if device != "auto":
        raise UsageError(
            f"Timing {elsewhere[0]!r}",
            f"device {kind!r}",
            "onnxruntime has no CUDA provider here, so it would run on the CPU",
            "Use --device cpu, or install onnxruntime-gpu.",
        )
    progress.note(f"{elsewhere[0]} cannot run on {kind}: all models are timed on the CPU.")
    return _open_all(models, "cpu", progress)


def _common_shape(opened: Sequence[Opened]) -> tuple[int, ...]:
    """Return the one input shape that the models know."""
    known = {one.name: one.input_shape for one in opened if one.input_shape is not None}
    shapes = set(known.values())
    if len(shapes) == 1:
        return shapes.pop()
    if not shapes:
        raise UsageError(
            f"Timing {opened[0].name!r}",
            "no input shape",
            "neither the file nor its architecture tells the size of one input",
            "Give it, such as --input-shape 3,224,224.",
        )
    listed = (f"{'x'.join(map(str, shape))} ({name})" for name, shape in known.items())
    raise UsageError(
        "Timing models against each other",
        f"inputs of {', '.join(listed)}",
        "they must read the same inputs",
        "Give one that all of them take with --input-shape, or time them one by one.",
    )


def _openers(opened: Sequence[Opened], device: str) -> dict[str, dict[str, Opener]]:
    """Put all models into one group, so that the first is the reference of every row."""
    runtimes = [_RUNTIMES.get(one.predictor.form, one.predictor.form) for one in opened]
    if len(set(runtimes)) == 1:
        return {runtimes[0]: {one.name: _opener(one, device) for one in opened}}
    named = zip(opened, runtimes, strict=True)
    return {MIXED: {f"{one.name} ({runtime})": _opener(one, device) for one, runtime in named}}


def _opener(one: Opened, device: str) -> Opener:
    """Return what opens a model for a thread count; only onnxruntime needs to open again."""

    def reopen(file: str) -> Callable[..., Predictor]:
        def opener(*, threads: int) -> Predictor:
            return open_predictor(Path(file), name=one.name, device=device, threads=threads)

        return opener

    def same(*, threads: int) -> Predictor:
        return one.predictor

    if one.predictor.form == "onnx" and one.spec.file is not None:
        return reopen(one.spec.file)
    return same
