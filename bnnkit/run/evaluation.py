"""`eval`: how good a model is on labelled data, alone or against another on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.io.data import Dataset, load_data
from bnnkit.run.evaluate import Predictions, compare, measure, predictions
from bnnkit.run.forms import (
    ModelSource,
    Opened,
    checked,
    describe_model,
    distinct_names,
    open_form,
)
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.setup import as_data_spec
from bnnkit.spec import DataSpec, Report

__all__ = ["describe_data", "evaluate", "size_ratios", "sizes"]


def evaluate(
    model: ModelSource,
    data: DataSpec | str,
    *,
    against: ModelSource | None = None,
    batch_size: int = 256,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Measure error (%), NLL (nats), calibration error (%) and Brier score on the test part.

    Args:
        model: A module, a file in any form, or a file with its architecture.
        data: The data, or only their name.
        against: A reference model, run on the same inputs; its figures become `original`.
        batch_size: Inputs a call.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None keeps torch's own choice.
        progress: Who is told.
        argv: The command line, for the report.

    Returns:
        A report with `slim`, and with `original`, `paired` and `ratios` where there is a
        reference.

    Raises:
        BnnkitError: A model cannot be opened, the data cannot be read, or they do not fit.
    """
    started, progress = datetime.now(UTC), progress or SilentProgress()
    spec = as_data_spec(data)
    kind = choose_device(device).type
    sources = [model] if against is None else [model, against]
    with torch_threads(threads):
        named = zip(sources, distinct_names(sources), strict=True)
        opened = [open_form(s, name=n, device=kind, threads=threads) for s, n in named]
        for one in opened[1:]:  # those of the model are shown with the report
            for note in one.notes:
                progress.note(f"{one.name}: {note}")
        datasets = _fitting(spec, opened, progress)
        found = [
            _predict(one, dataset, batch_size, progress)
            for one, dataset in zip(opened, datasets, strict=True)
        ]
        sections = _sections(opened, datasets, found)
        provenance = collect_provenance(
            argv, seed=spec.split_seed, device=kind, threads=threads, started=started
        )
    return Report("eval", provenance, sections)


def _fitting(spec: DataSpec, opened: Sequence[Opened], progress: Progress) -> list[Dataset]:
    """Load the data as each model reads them; the same shape is loaded once."""
    by_shape: dict[tuple[int, ...] | None, Dataset] = {}
    out = []
    for one in opened:
        shape = one.input_shape or spec.input_shape
        if shape not in by_shape:
            progress.start(f"Loading {spec.name}", 1)
            by_shape[shape] = load_data(replace(spec, input_shape=shape))
            progress.advance()
            progress.stop()
        out.append(by_shape[shape])
    return out


def _predict(opened: Opened, dataset: Dataset, batch_size: int, progress: Progress) -> Predictions:
    """Run one model over the test part."""
    run = checked(opened)

    def call(x: Tensor) -> Tensor:
        answer = run(x)
        progress.advance(len(x))
        return answer

    progress.start(f"Evaluating {opened.name}", len(dataset.test))
    try:
        return predictions(call, dataset.test, batch_size=batch_size)
    finally:
        progress.stop()


def _sections(
    opened: Sequence[Opened], datasets: Sequence[Dataset], found: Sequence[Predictions]
) -> dict[str, Any]:
    """Build the sections: the model as `slim`, its reference as `original`."""
    figures = [
        measure(answers) | sizes(one, dataset.input_shape)
        for one, dataset, answers in zip(opened, datasets, found, strict=True)
    ]
    sections: dict[str, Any] = {
        "model": describe_model(opened[0]),
        "data": describe_data(datasets[0]),
        "slim": figures[0],
    }
    if len(opened) > 1:
        sections["against"] = describe_model(opened[1])
        sections["original"] = figures[1]
        sections["paired"] = compare(found[1], found[0])
        sections["ratios"] = size_ratios(figures[1], figures[0])
    return sections


def sizes(opened: Opened, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return `parameters` and `macs` where the form tells them, and `file_bytes`."""
    out: dict[str, int] = {}
    if opened.module is not None:
        out["parameters"] = count_parameters(opened.module)
        with suppress(RuntimeError):  # a graph of a fixed batch size does not run on one input
            out["macs"] = count_macs(opened.module, input_shape)
    if opened.bytes is not None:
        out["file_bytes"] = opened.bytes
    return out


def size_ratios(original: dict[str, Any], slim: dict[str, Any]) -> dict[str, float]:
    """Return original divided by slim for each count that both have."""
    keys = {"parameters": "parameters", "macs": "macs", "file": "file_bytes"}
    return {
        name: original[key] / slim[key]
        for name, key in keys.items()
        if original.get(key) and slim.get(key)
    }


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return the `data` section of a report."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "n_train": len(dataset.train),
        "n_test": len(dataset.test),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "input_shape": list(dataset.input_shape),
        "notes": list(dataset.notes),
    }
