"""The latency of a net against what was made of it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnnkit.io.export import write_onnx
from bnnkit.io.rundir import MODEL_ONNX
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.latency.section import Opener, latency_table
from bnnkit.run.progress import Progress

__all__ = ["OnDevice", "of_module", "time_against_original"]

OnDevice = Callable[[str], Opener]
"""From a device to what opens a model there."""


def of_module(module: nn.Module) -> OnDevice:
    """Return what opens copies of a module."""

    def on(device: str) -> Opener:
        return partial(open_predictor, copy.deepcopy(module).to(device), device=device)

    return on


def time_against_original(
    original: nn.Module,
    models: Mapping[str, OnDevice],
    exported: tuple[str, Path],
    input_shape: tuple[int, ...],
    batches: Sequence[int],
    threads: Sequence[int],
    progress: Progress,
    *,
    against: str,
    devices: Sequence[str] = ("cpu",),
) -> list[dict[str, Any]]:
    """Time a net against models made of it: under torch and, on the CPU, under onnxruntime.

    Args:
        original: The untouched net, on the CPU.
        models: Those that torch runs, by name.
        exported: Name and ONNX file of the one that onnxruntime runs; no row where it is missing.
        input_shape: Shape of one input.
        batches: Batch sizes.
        threads: CPU thread counts.
        progress: Who is told.
        against: What the models are, in a word.
        devices: `cpu`, `cuda`.
    """
    progress.start(f"timing original against {against}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[str, Path] = {}
        name, path = exported
        if path.is_file():
            example = torch.zeros(2, *input_shape)
            before = write_onnx(original, example, Path(folder) / MODEL_ONNX)
            graphs = {"original": before.path, name: path}
        for device in devices:
            modules = {"original": of_module(original), **models}
            openers = {"torch": {name: on(device) for name, on in modules.items()}}
            if graphs and device == "cpu":
                openers["onnxruntime"] = {
                    name: partial(open_predictor, graph) for name, graph in graphs.items()
                }
            rows += latency_table(openers, input_shape, batches, threads, device=device)
    progress.stop()
    return rows
