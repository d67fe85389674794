"""A filtered generator that samples again: what `bnnkit.load` makes of an `mh-filter` run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, FileRefusedError, UsageError
from bnnkit.io.features import FeatureExtractor, open_features
from bnnkit.io.generators import Generator, open_generator
from bnnkit.io.rundir import DISCRIMINATOR, SAMPLER
from bnnkit.io.samples import read_tensors
from bnnkit.methods.mh.chains import bank_chains
from bnnkit.methods.mh.networks import ConvDiscriminator, without_spectral_norm
from bnnkit.methods.mh.scores import (
    CalibratedScore,
    ConvScore,
    FeatureScore,
    LinearScore,
    MixedScore,
    OwnScore,
    score_images,
)
from bnnkit.run.mh_discriminate import net_of
from bnnkit.spec import ModelSpec
from bnnkit.spec.generator import GeneratorSpec, parse_latent

__all__ = ["FilteredGenerator", "is_sampler", "load_sampler"]

_BANK_PER_SAMPLE, _LEAST_BANK, _MOST_BANK = 10, 2000, 100_000
_BLOCK = 5000


class FilteredGenerator(nn.Module):
    """A generator whose samples go through a Metropolis-Hastings chain.

    Args:
        generator: The generator.
        score: From images in [0, 1] (and labels) to log p/q.
        starts: Scores of real held-out images, at which chains start `[r]`.
        start_labels: Their classes `[r]`, of a class-conditional generator.
        chain_length: Proposals offered to each chain.
    """

    def __init__(
        self,
        generator: Generator,
        score: nn.Module,
        starts: Tensor,
        start_labels: Tensor | None,
        chain_length: int,
    ) -> None:
        super().__init__()
        self.generator, self.score = generator, score
        self.chain_length = chain_length
        self.register_buffer("starts", starts)
        self.register_buffer("start_labels", start_labels)
        self.eval()

    starts: Tensor
    start_labels: Tensor | None

    def forward(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `n` images; see `sample`."""
        return self.sample(n, generator=generator)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        chain_length: int | None = None,
        bank: int | None = None,
        label: int | None = None,
    ) -> Tensor:
        """Draw images from the corrected distribution.

        Args:
            n: How many.
            generator: Source of all draws, on the CPU; seeded with 0 if None.
            chain_length: Proposals offered to each chain; that of the run if None.
            bank: Proposals that are made and scored; ten a sample if None, 2,000 to 100,000.
            label: The class, of a class-conditional generator.

        Returns:
            uint8 `[n, c, h, w]`.

        Raises:
            TrainingError: Chains refuse every proposal.
            UsageError: A number has no meaning, or the class is missing.
        """
        draws = generator or torch.Generator().manual_seed(0)
        if n < 1:
            raise UsageError("Sampling", f"{n} images", "it takes 1 or more")
        size = bank or min(max(_BANK_PER_SAMPLE * n, _LEAST_BANK), _MOST_BANK)
        starts, labels = self.starts.double(), None
        if self.generator.classes is not None:
            if label is None or not 0 <= label < self.generator.classes:
                raise UsageError(
                    "Sampling", f"the class {label}",
                    f"this generator is told a class, 0 to {self.generator.classes - 1}",
                    "Pass label=.",
                )  # fmt: skip
            labels = torch.full((size,), label)
            assert self.start_labels is not None  # written for every such generator
            starts = starts[self.start_labels == label]
        latents = self.generator.draw(size, draws)
        images = torch.cat(
            [
                self.generator.bytes(
                    latents[i : i + _BLOCK], None if labels is None else labels[i : i + _BLOCK],
                    draws,
                )
                for i in range(0, size, _BLOCK)
            ]
        )  # fmt: skip
        scores = score_images(self.score, images, labels)
        walk = bank_chains(scores, starts, n, chain_length or self.chain_length, draws)
        return images[walk.rows]


def is_sampler(path: str | Path) -> bool:
    """Tell whether a path is a run directory of `mh-filter`."""
    return (Path(path) / SAMPLER).is_file()


def load_sampler(path: str | Path, *, latent: str | None = None) -> FilteredGenerator:
    """Load the sampler of a run directory; its generator's checkpoint is not needed.

    Args:
        path: The run directory.
        latent: The latents again, where they came from code of the user's.

    Raises:
        BnnkitError: A file is missing, broken, or does not fit the others.
    """
    folder = Path(path)
    try:
        body = json.loads((folder / SAMPLER).read_text(encoding="utf-8"))
        spec = GeneratorSpec.from_dict(body["generator"])
        file = folder / Path(str(spec.model.file)).name  # never a path out of the folder
        length = int(body["chain_length"])
        structure, extractor = body["score"], body.get("extractor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(folder, f"{type(error).__name__}: {error}") from error
    if latent is not None:
        spec = replace(spec, latent=parse_latent(latent))
    elif spec.latent.kind == "factory":
        raise UsageError(
            f"Loading the sampler {str(folder)!r}",
            f"latents from {spec.latent.source!r}",
            "code that a file names is not run",
            f"Name it yourself: load(path, latent={spec.latent.source!r}).",
        )
    made = open_generator(replace(spec, model=replace(spec.model, file=str(file))))
    tensors = read_tensors(folder / DISCRIMINATOR)
    opened = None if extractor is None else _extractor(folder, extractor, made.shape)
    try:
        score = _score(structure, tensors, made, opened, "")
        starts, start_labels = tensors["starts"], tensors.get("start_labels")
    except BnnkitError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _broken(folder, f"{type(error).__name__}: {error}") from error
    return FilteredGenerator(made, score.eval(), starts, start_labels, length)


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
    shape_in = body.get("input_shape")
    spec = ModelSpec(
        file=str(folder / Path(str(body["file"])).name),
        input_shape=None if shape_in is None else tuple(int(n) for n in shape_in),
    )
    layer = body.get("layer")
    mean, std = (tuple(float(v) for v in body[k]) for k in ("mean", "std"))
    return open_features(spec, shape, layer=layer, mean=mean, std=std)


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
        start = f"{prefix}net."
        net.load_state_dict(
            {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        )
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
