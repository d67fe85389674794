"""`export`: a loaded model as ONNX, `.pt2` or safetensors, each checked before it is delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import ArtefactError, UsageError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.data import load_data
from bnnkit.io.export import Written, write_onnx, write_pt2, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.methods.sbn import StochasticNet
from bnnkit.run.destinations import SUFFIXES, refuse_existing, staged, targets
from bnnkit.run.evaluation import describe_data
from bnnkit.run.forms import ModelSource, Opened, checked, describe_model, open_form
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.setup import as_data_spec, as_model_spec
from bnnkit.run.uncertainty.stochastic import as_stochastic
from bnnkit.run.verify import require, verify_forms
from bnnkit.spec import DataSpec, ModelSpec, Report

__all__ = ["export"]

_INPUTS = 64


def export(
    model: ModelSource,
    out: str | Path,
    formats: Sequence[str] | None = None,
    *,
    data: DataSpec | str | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Write a model in other forms, and compare each with the model on the same inputs.

    Every form is written beside its place, opened again and compared; all of them are moved to
    their place only when all agree.

    Args:
        model: A module, a checkpoint, a run directory or a `.pt2`. ONNX and TorchScript files
            only run; the latter gives its tensors to an architecture where one is named.
        out: A file that ends in `.onnx`, `.pt2` or `.safetensors`, or a folder.
        formats: `onnx`, `pt2`, `safetensors`; None takes what the file's name says, or `onnx`.
        data: Inputs to compare on, from the test part; None takes seeded noise.
        tolerance: Largest relative difference that passes; see `verify_forms`.
        seed: Seed of the noise, or of the subset of the data.
        force: Whether existing files may be replaced.
        progress: Who is told.
        argv: The command line, for the report.

    Returns:
        A report with `files`, `inputs` and `checks`.

    Raises:
        ArtefactError: A form cannot be written, or disagrees; nothing is left behind.
        BnnkitError: The model cannot be opened, or `out` cannot be written.
    """
    started, progress = datetime.now(UTC), progress or SilentProgress()
    places = targets(model, Path(out), formats)
    refuse_existing(places, force)
    source = open_form(model, through_arch=True, seed=seed)
    module = _module(source)
    inputs = _inputs(source, data, seed)
    checked(source)(inputs.tensor[:1])
    source.notes.append(inputs.note)
    reloaded = as_model_spec(model) if isinstance(model, ModelSpec | str | Path) else None
    progress.start("Writing and comparing", len(places) + 1)
    with staged(places) as aside:
        written: dict[str, Written] = {}
        candidates: dict[str, Predictor] = {}
        for form, path in aside.items():
            written[form] = _write(form, module, source, inputs.tensor[:2], path)
            candidates[f"model = {form}"] = _reopen(form, path, module, source, reloaded)
            progress.advance()
            source.notes.extend(f"{form}: {note}" for note in written[form].notes)
        checks = verify_forms(source.predictor, candidates, inputs.tensor, tolerance=tolerance)
        progress.advance()
        progress.stop()
        require(checks)
        files = _describe_files(places, written)
    sections: dict[str, Any] = {"model": describe_model(source)}
    sections |= {"data": inputs.section} if inputs.section else {}
    sections |= {"inputs": inputs.kind, "files": files, "checks": [asdict(c) for c in checks]}
    return Report("export", collect_provenance(argv, seed=seed, started=started), sections)


def _module(source: Opened) -> nn.Module:
    """Return the module to export, on the CPU and in eval mode."""
    if source.module is None:
        raise UsageError(
            f"Exporting {source.name!r}",
            f"a model that only runs ({source.predictor.form})",
            "its layers cannot be written in another form",
            "Name the PyTorch checkpoint that it was made from"
            + (", or --arch." if source.predictor.form == "torchscript" else "."),
        )
    return source.module.eval()


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the forms are compared on.

    Args:
        tensor: `[n, ...]`.
        kind: `data` or `noise`.
        note: A sentence that says which.
        section: The `data` section of the report, empty for noise.
    """

    tensor: Tensor
    kind: str
    note: str
    section: dict[str, Any]


def _inputs(source: Opened, data: DataSpec | str | None, seed: int) -> _Inputs:
    """Take a random part of the test data, or seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    if data is not None:
        spec = as_data_spec(data)
        dataset = load_data(replace(spec, input_shape=source.input_shape or spec.input_shape))
        part = dataset.test.take(min(_INPUTS, len(dataset.test)), generator)
        x = torch.cat([x for x, _ in part.batches(_INPUTS)])
        note = f"The forms are compared on {len(x)} inputs of {dataset.name}."
        return _Inputs(x, "data", note, describe_data(dataset))
    if source.input_shape is None:
        raise UsageError(
            f"Exporting {source.name!r}",
            "no input shape",
            "neither the file nor its architecture tells the size of one input",
            "Give it, such as --input-shape 3,224,224, or the data with --data.",
        )
    x = torch.randn(_INPUTS, *source.input_shape, generator=generator)
    note = f"The forms are compared on {_INPUTS} inputs of noise (seed {seed}), not on real data."
    return _Inputs(x, "noise", note, {})


def _write(form: str, module: nn.Module, source: Opened, example: Tensor, path: Path) -> Written:
    """Write one form."""
    try:
        if form == "onnx":
            return write_onnx(module, example, path)
        if form == "pt2":
            return write_pt2(module, example, path)
        if isinstance(module, StochasticNet):
            return write_safetensors(
                module.plain(), path, source.plan, module.sampler.state_dict()
            )
        return write_safetensors(module, path, source.plan)
    except ArtefactError as error:
        others = ",".join(other for other in SUFFIXES if other != form)
        hint = f"Leave {form} out, as in --format {others}; or change the code that it names."
        raise ArtefactError(error.what, error.found, error.why, hint) from error


def _reopen(
    form: str, path: Path, module: nn.Module, source: Opened, asked: ModelSpec | None
) -> Predictor:
    """Open a written form again, as whoever gets it will."""
    if form != "safetensors":
        return open_predictor(path, name=form)
    if asked is not None and (source.plan is not None or asked.arch is not None):
        again = replace(asked, file=str(path), state_key=None)
        return open_predictor(as_stochastic(load_model(again)), name=form)
    # no architecture is known: a copy of the module takes every tensor, or none
    read = read_checkpoint(path)
    copy = deepcopy(module)
    copy.load_state_dict({read.prefix + key: value for key, value in read.tensors.items()})
    return open_predictor(copy, name=form)


def _describe_files(
    places: Mapping[str, Path], written: Mapping[str, Written]
) -> list[dict[str, Any]]:
    """Return the `files` section of the report."""
    return [
        {
            "form": form,
            "file": path.name,
            "bytes": written[form].bytes,
            "notes": list(written[form].notes),
        }
        for form, path in places.items()
    ]
