"""The files of a filtering run: samples, discriminator, generator, and what samples again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnnkit.io.export import copy_onnx, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.pictures import write_grid
from bnnkit.io.rundir import (
    DISCRIMINATOR,
    EXTRACTOR,
    MODEL_SAFETENSORS,
    SAMPLER,
    SAMPLES_NPZ,
    SAMPLES_PNG,
    SAMPLES_RAW_PNG,
    write_plan,
    write_text,
)
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
from bnnkit.run.filtering.choose import Chosen
from bnnkit.run.filtering.encoder import PairModel
from bnnkit.run.filtering.filtered import Filtered
from bnnkit.run.filtering.job import Job
from bnnkit.run.filtering.judges import FeatureSource
from bnnkit.run.filtering.onnx import Served, write_onnx_files
from bnnkit.run.setup import plan_of
from bnnkit.run.verify import require
from bnnkit.spec import ModelSpec, Plan
from bnnkit.spec.generator import GeneratorSpec

__all__ = ["write_filtered"]

_PROGRAMS = {FileKind.TORCHSCRIPT: ".pt", FileKind.PT2: ".pt2", FileKind.ONNX: ".onnx"}
_STARTS = 10_000


def write_filtered(
    folder: Path,
    job: Job,
    spec: GeneratorSpec,
    chosen: Chosen,
    filtered: Filtered,
    raw: Tensor,
    *,
    features: FeatureSource | None,
    owner: FeatureSource | None,
) -> list[Served]:
    """Write what a run delivers, and compare the exported forms with what was run.

    Args:
        folder: Where the files go.
        job: The run.
        spec: The generator as it was named.
        chosen: The score.
        filtered: What came out of the chains.
        raw: Some images as the generator makes them, uint8 `[m, c, h, w]`.
        features: The user's extractor.
        owner: The owner's discriminator.

    Returns:
        The files for serving, each with its proof.

    Raises:
        ArtefactError: A form cannot be written, or disagrees.
    """
    job.progress.start("writing and checking the files")
    images, latents = filtered.images, filtered.latents
    write_samples(folder / SAMPLES_NPZ, images, latents, filtered.rows, filtered.labels)
    write_grid(raw, folder / SAMPLES_RAW_PNG)
    write_grid(images[: len(raw)], folder / SAMPLES_PNG)
    score = None if filtered.pairs is not None else chosen.score
    served = write_onnx_files(folder, job, score, filtered) if "onnx" in job.config.formats else []
    generator_file = _write_generator(folder, spec, job.config.seed)
    source = owner if job.config.discriminator == "owner" else features
    sampled = (
        _encoded(filtered.pairs, job) if filtered.pairs else _scored(folder, job, chosen, source)
    )
    _write_sampler(folder, job, spec, generator_file, sampled, served)
    job.progress.stop()
    require([file.check for file in served])
    return served


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
    plan = plan_of(loaded, "mh-filter")
    write_safetensors(loaded.module, path, plan)
    return plan


@dataclass(frozen=True)
class _Sampled:
    """What the chains of a sampler are run on.

    Args:
        structure: The score, or the model of pairs, as data.
        tensors: Its tensors, and the scores at which chains start.
        extractor: The model whose features it reads, or None.
    """

    structure: dict[str, Any]
    tensors: dict[str, Tensor]
    extractor: dict[str, Any] | None = None


def _scored(folder: Path, job: Job, chosen: Chosen, source: FeatureSource | None) -> _Sampled:
    """Describe chains over scores; they start at the scores of real images."""
    extractor = None
    if source is not None and _needs_extractor(chosen.score):
        extractor = _write_extractor(folder, source, job)
    tensors = _tensors(chosen.score)
    tensors["starts"] = chosen.held[:_STARTS].float()
    if job.conditional:
        tensors["start_labels"] = job.held.labels[:_STARTS]
    return _Sampled(_structure(chosen.score, job), tensors, extractor)


def _encoded(pairs: PairModel, job: Job) -> _Sampled:
    """Describe chains through an encoder; they go on from the delivered images."""
    parts = {"pairs": pairs.net} | ({"encoder": pairs.encoder} if pairs.encoder else {})
    structure = {
        "kind": "pairs",
        "width": job.config.width,
        "floor": pairs.floor,
        "temperature": pairs.temperature,
        "step": pairs.step,
        "encoder": "trained" if pairs.encoder else "own",
    }
    tensors = {f"{k}.{name}": t for k, part in parts.items() for name, t in _tensors(part).items()}
    return _Sampled(structure, tensors)


def _write_sampler(
    folder: Path,
    job: Job,
    spec: GeneratorSpec,
    generator_file: str,
    sampled: _Sampled,
    served: Sequence[Served],
) -> None:
    """Write the discriminator's tensors, and the description that puts the sampler together."""
    write_tensors(folder / DISCRIMINATOR, sampled.tensors)
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
        "score": sampled.structure,
        "extractor": sampled.extractor,
        "chain_length": job.config.length,
        "onnx": {file.path.name: list(file.inputs) for file in served},
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
