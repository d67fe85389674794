"""The files of a filtering run: samples, discriminator, generator, and what samples again."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnnkit.errors import ArtefactError
from bnnkit.graph.outputs import main_output
from bnnkit.io.export import copy_onnx, write_onnx, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.pictures import write_grid
from bnnkit.io.rundir import (
    DISCRIMINATOR,
    EXTRACTOR,
    GENERATOR_ONNX,
    MODEL_SAFETENSORS,
    SAMPLER,
    SAMPLES_NPZ,
    SAMPLES_PNG,
    SAMPLES_RAW_PNG,
    SCORE_ONNX,
    write_plan,
    write_text,
)
from bnnkit.io.runtimes import open_predictor
from bnnkit.io.samples import write_samples, write_tensors
from bnnkit.io.sniff import FileKind, sniff
from bnnkit.methods.mh.networks import ConvDiscriminator
from bnnkit.methods.mh.scores import (
    CalibratedScore,
    ConvScore,
    FeatureScore,
    MixedScore,
    OwnScore,
)
from bnnkit.run.mh_choose import Chosen
from bnnkit.run.mh_job import FeatureSource, Job
from bnnkit.run.verify import Check, require, verify_forms
from bnnkit.spec import ModelSpec, Plan
from bnnkit.spec.generator import GeneratorSpec

__all__ = ["grid_png", "write_filtered"]

_PROGRAMS = {FileKind.TORCHSCRIPT: ".pt", FileKind.PT2: ".pt2", FileKind.ONNX: ".onnx"}
_PROOF = 64
_STARTS = 10_000


def grid_png(images: Tensor) -> str:
    """Return images side by side as a PNG in base64."""
    with tempfile.TemporaryDirectory() as folder:
        return base64.b64encode(
            write_grid(images, Path(folder) / "grid.png").read_bytes()
        ).decode()


def write_filtered(
    folder: Path,
    job: Job,
    spec: GeneratorSpec,
    chosen: Chosen,
    *,
    images: Tensor,
    latents: Tensor,
    labels: Tensor | None,
    rows: Tensor,
    raw: Tensor,
    features: FeatureSource | None,
    owner: FeatureSource | None,
    pairs: nn.Module | None = None,
) -> list[Check]:
    """Write what a run delivers, and compare the exported forms with what was run.

    Args:
        folder: Where the files go.
        job: The run.
        spec: The generator as it was named.
        chosen: The score.
        images: uint8 `[n, c, h, w]`.
        latents: `[n, ...]`.
        labels: int64 `[n]` of a class-conditional generator, or None.
        rows: Bank rows `[n]`.
        raw: Some images as the generator makes them.
        features: The user's extractor.
        owner: The owner's discriminator.
        pairs: The discriminator of pairs, where proposals went through an encoder.

    Raises:
        ArtefactError: A form cannot be written, or disagrees.
    """
    job.progress.start("writing and checking the files")
    write_samples(folder / SAMPLES_NPZ, images, latents, rows, labels)
    write_grid(raw, folder / SAMPLES_RAW_PNG)
    write_grid(images[: len(raw)], folder / SAMPLES_PNG)
    generator_file = _write_generator(folder, spec, job.config.seed)
    source = owner if job.config.discriminator == "owner" else features
    if pairs is not None:
        write_tensors(folder / DISCRIMINATOR, pairs.state_dict())
        job.notes.append(
            "No sampler was written: chains through an encoder start at real images, which are "
            "not delivered."
        )
    else:
        _write_sampler(folder, job, spec, chosen, generator_file, source)
    checks: list[Check] = []
    if "onnx" in job.config.formats:
        score = None if pairs is not None else chosen.score
        checks = _write_onnx(folder, job, score, images[:_PROOF], latents[:_PROOF])
    job.progress.stop()
    require(checks)
    return checks


def _copy_program(model: ModelSpec, folder: Path, stem: str) -> str | None:
    """Copy a file that runs by itself and return its name; None for tensors."""
    if model.file is None or model.arch is not None:
        return None
    kind = sniff(model.file).kind
    if kind not in _PROGRAMS:
        return None
    path = folder / f"{stem}{_PROGRAMS[kind]}"
    copy = copy_onnx if kind is FileKind.ONNX else shutil.copyfile
    copy(model.file, path)
    return path.name


def _write_generator(folder: Path, spec: GeneratorSpec, seed: int) -> str:
    """Write the generator so that it loads from here: as tensors with a plan, or as it came."""
    copied = _copy_program(spec.model, folder, "generator")
    if copied is not None:
        return copied
    write_plan(folder, _write_module(spec.model, folder / MODEL_SAFETENSORS, seed))
    return MODEL_SAFETENSORS


def _write_module(model: ModelSpec, path: Path, seed: int = 0) -> Plan:
    """Write a model's tensors with the plan that loads them, and return the plan."""
    loaded = load_model(model, seed=seed)
    plan = loaded.plan or Plan(model=replace(loaded.spec, file=None), method="mh-filter")
    write_safetensors(loaded.module, path, plan)
    return plan


def _write_sampler(
    folder: Path,
    job: Job,
    spec: GeneratorSpec,
    chosen: Chosen,
    generator_file: str,
    source: FeatureSource | None,
) -> None:
    """Write the discriminator's tensors, and the description that puts the sampler together."""
    extractor: dict[str, Any] | None = None
    if source is not None and _needs_extractor(chosen.score):
        extractor = _write_extractor(folder, source, job)
    tensors = _tensors(chosen.score)
    tensors["starts"] = chosen.held[:_STARTS].float()
    if job.conditional:
        tensors["start_labels"] = job.held.labels[:_STARTS]
    write_tensors(folder / DISCRIMINATOR, tensors)
    generator = replace(
        spec,
        model=ModelSpec(file=generator_file),
        latent=job.generator.latent,
        out_range=job.generator.out_range,
        shape=job.generator.shape,
    )
    body = {
        "schema": 1,
        "generator": generator.to_dict(),
        "score": _structure(chosen.score, job),
        "extractor": extractor,
        "chain_length": job.config.length,
        "name": chosen.name,
    }
    write_text(folder / SAMPLER, json.dumps(body, indent=1))


def _write_extractor(folder: Path, source: FeatureSource, job: Job) -> dict[str, Any]:
    """Write the model whose features the score reads."""
    name = _copy_program(source.model, folder, "extractor")
    if name is None:
        name = EXTRACTOR
        _write_module(source.model, folder / EXTRACTOR)
    mean, std = source.normalisation(job.generator)
    return {
        "file": name,
        "layer": source.layer,
        "mean": list(mean),
        "std": list(std),
        "input_shape": None
        if source.model.input_shape is None
        else list(source.model.input_shape),
    }


def _needs_extractor(score: nn.Module) -> bool:
    """Tell whether a score reads features of another model."""
    return any(isinstance(m, FeatureScore | OwnScore) for m in score.modules())


def _structure(score: nn.Module, job: Job) -> dict[str, Any]:
    """Describe a score as data; its tensors have the same names as the parts."""
    if isinstance(score, CalibratedScore):
        inner = _structure(score.score, job)
        return {"kind": "calibrated", "temperature": score.temperature, "score": inner}
    if isinstance(score, MixedScore):
        parts = [_structure(part, job) for part in (score.first, score.second)]
        return {"kind": "mixed", "share": score.share, "first": parts[0], "second": parts[1]}
    if isinstance(score, ConvScore):
        width, classes = job.config.width, job.generator.classes
        assert isinstance(score.net, ConvDiscriminator)  # the only net there is
        return {"kind": "conv", "width": width, "classes": classes, "floor": score.floor}
    if isinstance(score, OwnScore):
        return {"kind": "own", "probability": score.probability}
    return {"kind": "features"}


def _tensors(score: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a score, without those of the extractor that it reads."""
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in score.state_dict().items()
        if ".net.module." not in f".{name}"
    }


class _InUnitRange(nn.Module):
    """A generator as one module: latents `[n, ...]` to images `[n, c, h, w]` in [0, 1]."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        assert job.generator.module is not None  # callers have one
        self.inner = job.generator.module
        self._meaning = job.generator.meaning

    def forward(self, z: Tensor) -> Tensor:
        """Return images in [0, 1]."""
        return self._meaning.images(main_output(self.inner(z)), z.shape[0])


def _write_onnx(
    folder: Path, job: Job, score: nn.Module | None, images: Tensor, latents: Tensor
) -> list[Check]:
    """Export generator and score, and compare both with torch on what was delivered."""
    made, checks = job.generator, []
    if made.module is None or job.conditional or made.form.form != "torch":
        job.notes.append(
            "The generator was not exported to ONNX: "
            + ("it takes labels." if job.conditional else f"it came as {made.form.form}.")
        )
    else:
        checks += _proved(
            _InUnitRange(job).cpu().eval(), latents, folder / GENERATOR_ONNX, "generator", job
        )
    if job.conditional or score is None:
        reads = "pairs of images" if score is None else "labels"
        job.notes.append(f"The discriminator was not exported to ONNX: it takes {reads}.")
    else:
        x = images.float() / 255
        checks += _proved(score.cpu().eval(), x, folder / SCORE_ONNX, "discriminator", job)
    return checks


def _proved(module: nn.Module, inputs: Tensor, path: Path, name: str, job: Job) -> list[Check]:
    """Write one ONNX file and compare it; one that cannot be exported is left out, and said so."""
    try:
        write_onnx(module, inputs[:2], path)
    except ArtefactError as error:
        job.notes.append(f"The {name} was not exported to ONNX: {error.found}: {error.why}.")
        return []
    reference = open_predictor(module, name=name)
    return verify_forms(reference, {f"{name} = onnx": open_predictor(path)}, inputs)
