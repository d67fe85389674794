"""A sampler out of the run directory of `mh-filter`; the generator's checkpoint is not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnnkit.errors import ArchitectureError, BnnkitError, FileRefusedError, UsageError
from bnnkit.io.features import FeatureExtractor, open_features
from bnnkit.io.generators import Generator, open_generator
from bnnkit.io.rundir import DISCRIMINATOR, SAMPLER, SAMPLES_NPZ
from bnnkit.io.samples import read_images, read_tensors
from bnnkit.methods.mh.markov import Encoder
from bnnkit.methods.mh.networks import ConvDiscriminator, PairDiscriminator, without_spectral_norm
from bnnkit.methods.mh.scores import (
    CalibratedScore,
    ConvScore,
    FeatureScore,
    LinearScore,
    MixedScore,
    OwnScore,
)
from bnnkit.run.filtering.chain_sampler import ChainSampler
from bnnkit.run.filtering.discriminate import net_of
from bnnkit.run.filtering.encoder import PairModel, owners_encoder
from bnnkit.run.filtering.encoder_sampler import EncodedGenerator
from bnnkit.run.filtering.sampler import FilteredGenerator
from bnnkit.spec import ModelSpec
from bnnkit.spec.generator import GeneratorSpec, LatentSpec, parse_latent

__all__ = ["is_sampler", "load_sampler"]

_UNFIT = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)


def is_sampler(path: str | Path) -> bool:
    """Tell whether a path is a run directory of `mh-filter`, one that lost its sampler as well."""
    folder = Path(path)
    return (folder / SAMPLER).is_file() or (
        (folder / SAMPLES_NPZ).is_file() and (folder / DISCRIMINATOR).is_file()
    )


def load_sampler(
    path: str | Path,
    *,
    latent: str | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
) -> ChainSampler:
    """Load the sampler of a run directory.

    Args:
        path: The run directory.
        latent: The latents again, where they came from code of the user's.
        arch: The architecture of the generator, in place of the one that the run names.
        arch_args: Keyword arguments of its factory.
        trust_pickle: Whether the generator's file may run its code.

    Raises:
        BnnkitError: A file is missing, broken, or does not fit the others.
    """
    folder = Path(path)
    if not (folder / SAMPLER).is_file():
        raise FileRefusedError(
            f"Loading the sampler {str(folder)!r}",
            f"no {SAMPLER}",
            "what is left of the run would be its generator, unfiltered",
            "Run 'bnnkit mh-filter' again; the generator alone is a file of the folder.",
        )
    try:
        body = json.loads((folder / SAMPLER).read_text(encoding="utf-8"))
        spec = GeneratorSpec.from_dict(body["generator"])
        file = folder / Path(str(spec.model.file)).name  # never a path out of the folder
        length = int(body["chain_length"])
        structure, extractor = body["score"], body.get("extractor")
        serving = {str(k): tuple(map(str, v)) for k, v in (body.get("onnx") or {}).items()}
        kind = str(structure["kind"])
    except (OSError, *_UNFIT) as error:
        raise _broken(folder, f"{type(error).__name__}: {error}") from error
    # what may run comes from the caller alone: the description may be a stranger's
    model = ModelSpec(str(file), arch, dict(arch_args or {}), trust_pickle=trust_pickle)
    made = open_generator(replace(spec, model=model, latent=_latent(folder, spec, latent)))
    tensors = read_tensors(folder / DISCRIMINATOR)
    opened = None if extractor is None else _extractor(folder, extractor, made.shape)
    try:
        if kind == "pairs":
            return _through_encoder(folder, structure, tensors, made, length, serving)
        score = _score(structure, tensors, made, opened, "")
        starts, start_labels = tensors["starts"], tensors.get("start_labels")
        if not len(starts) or (made.classes is not None and len(tensors["start_labels"]) == 0):
            raise ValueError("no score of a real image to start at")
    except BnnkitError:
        raise
    except _UNFIT as error:
        raise _broken(folder, f"{type(error).__name__}: {error}") from error
    return FilteredGenerator(made, score.eval(), starts, start_labels, length, serving)


def _latent(folder: Path, spec: GeneratorSpec, named: str | None) -> LatentSpec:
    """Return what the generator is fed with: the caller's own word, or a known distribution."""
    if named is not None:
        return parse_latent(named)
    if spec.latent.kind == "factory":
        raise UsageError(
            f"Loading the sampler {str(folder)!r}",
            f"latents from {spec.latent.source!r}",
            "code that a file names is not run",
            f"Name it yourself: load(path, latent={spec.latent.source!r}).",
        )
    return spec.latent


def _broken(folder: Path, found: str) -> FileRefusedError:
    return FileRefusedError(
        f"Loading the sampler {str(folder)!r}",
        found.splitlines()[0][:200],
        "its files do not fit together",
        "Run 'bnnkit mh-filter' again.",
    )


def _extractor(
    folder: Path, body: Mapping[str, Any], shape: tuple[int, int, int]
) -> FeatureExtractor:
    """Open the model whose features the score reads."""
    try:
        file = folder / Path(str(body["file"])).name
        size, layer = body.get("input_shape"), body.get("layer")
        shape_in = None if size is None else tuple(int(n) for n in size)
        mean, std = (tuple(float(v) for v in body[k]) for k in ("mean", "std"))
    except _UNFIT as error:
        raise _broken(folder, f"{type(error).__name__}: {error}") from error
    spec = ModelSpec(str(file), input_shape=shape_in)
    try:
        return open_features(spec, shape, layer=layer, mean=mean, std=std)
    except ArchitectureError as error:
        # the architecture that load() takes is the generator's
        hint = f"Load {str(file)!r} by itself once: bnnkit.load(file, arch=...), if you trust it."
        raise ArchitectureError(error.what, error.found, error.why, hint) from error


def _through_encoder(
    folder: Path,
    body: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    made: Generator,
    length: int,
    serving: Mapping[str, tuple[str, ...]],
) -> EncodedGenerator:
    """Put a sampler through an encoder together; its chains go on from the delivered images."""
    states = read_images(folder / SAMPLES_NPZ)
    if tuple(states.shape[1:]) != made.shape:
        raise ValueError(f"samples of {list(states.shape[1:])} by a generator of {made.shape}")
    net = PairDiscriminator(made.shape, int(body["width"]), 0.0)
    without_spectral_norm(net).load_state_dict(_under(tensors, "pairs."))
    encoder = Encoder(made.shape, made.latent.shape) if body["encoder"] == "trained" else None
    if encoder is not None:
        encoder.load_state_dict(_under(tensors, "encoder."))
    own = None if encoder is not None else owners_encoder(made, states)
    if encoder is None and own is None:
        raise KeyError("encoder")
    floor, temperature, step = (float(body[k]) for k in ("floor", "temperature", "step"))
    model = PairModel(net, encoder, floor, temperature, step)
    return EncodedGenerator(made, model, own, states, length, serving)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of one part, by their names in it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _score(
    body: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    made: Generator,
    extractor: FeatureExtractor | None,
    prefix: str,
) -> nn.Module:
    """Put a score together from its description and its tensors."""
    kind = body["kind"]

    def inner(name: str) -> nn.Module:
        return _score(body[name], tensors, made, extractor, f"{prefix}{name}.")

    if kind == "calibrated":
        return CalibratedScore(
            inner("score"), float(body["temperature"]), tensors.get(f"{prefix}knots")
        )
    if kind == "mixed":
        return MixedScore(inner("first"), inner("second"), float(body["share"]))
    if kind == "conv":
        net = ConvDiscriminator(made.shape, int(body["width"]), 0.0, body.get("classes"))
        without_spectral_norm(net)
        net.load_state_dict(_under(tensors, f"{prefix}net."))
        return ConvScore(net.eval(), body.get("floor"))
    if extractor is None:
        raise KeyError("extractor")
    reader = net_of(extractor)
    if kind == "own":
        return OwnScore(reader, bool(body["probability"]))
    start = f"{prefix}linear."
    linear = LinearScore(
        tensors[f"{start}mean"], tensors[f"{start}scale"], tensors[f"{start}weight"],
        tensors.get(f"{start}by_class"),
    )  # fmt: skip
    return FeatureScore(reader, linear)
