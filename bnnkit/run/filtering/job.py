"""What a filtering run works on: the generator, real images in three parts, and the judges."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bnnkit.errors import DataError, UsageError
from bnnkit.io.data import Dataset
from bnnkit.io.features import FeatureExtractor
from bnnkit.io.generator_forms import Decoder
from bnnkit.io.generators import Generator, open_generator
from bnnkit.run.filtering.cost import Stopwatch
from bnnkit.run.filtering.judges import FeatureSource, Judge, appoint, check_deliverable
from bnnkit.run.filtering.reals import Reals, read_parts
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress
from bnnkit.spec import DataSpec
from bnnkit.spec.generator import GeneratorSpec
from bnnkit.spec.mh import MhConfig

__all__ = ["Bank", "Job", "check_range", "prepare"]

_LEAST_RANGE = 0.55
"""Least share of the range of real images that generated ones must fill."""
_BLOCK = 5000


@dataclass(frozen=True)
class Bank:
    """What a generator made.

    Args:
        latents: `[n, ...]`.
        images: uint8 `[n, c, h, w]`.
        labels: int64 `[n]` of a class-conditional generator, else None.
    """

    latents: Tensor
    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Job:
    """A filtering run.

    Args:
        config: What was asked.
        generator: The generator, opened.
        data: The data, for the report.
        fit: Real images that discriminators are trained on.
        held: Real images for starts, calibration and choices.
        test: Real images that results are judged by.
        judges: Features of distances, the user's first.
        features: The user's extractor, where one was named.
        owner: The discriminator that the generator was trained against, likewise.
        device: Where nets compute.
        progress: Who is told.
        clock: What the phases cost.
        notes: What the report points out.
    """

    config: MhConfig
    generator: Generator
    data: Dataset
    fit: Reals
    held: Reals
    test: Reals
    judges: list[Judge]
    features: FeatureExtractor | None
    owner: FeatureExtractor | None
    device: torch.device
    progress: Progress
    clock: Stopwatch
    notes: list[str] = field(default_factory=list)

    @property
    def conditional(self) -> bool:
        """Whether the generator is told a class."""
        return self.generator.classes is not None

    def random(self, purpose: int) -> torch.Generator:
        """Return the source of one kind of draws; each purpose has its own."""
        return torch.Generator().manual_seed(self.config.seed * 1009 + purpose)

    def labels_of(self, part: Reals) -> Tensor | None:
        """Return the labels of real images where the generator reads labels."""
        return part.labels if self.conditional else None

    def dealt(self, total: int) -> list[int]:
        """Deal samples out to the classes as training images are, largest remainders first."""
        labels = torch.cat([self.fit.labels, self.held.labels])
        counted = torch.bincount(labels, minlength=self.generator.classes or 1)
        exact = counted.double() * total / len(labels)
        counts = exact.floor()
        order = (exact - counts).argsort(descending=True)
        counts[order[: total - int(counts.sum())]] += 1
        return [int(n) for n in counts]

    def make(self, count: int, purpose: int, *, what: str = "generating proposals") -> Bank:
        """Draw latents and make images; classes in the proportions of the real ones."""
        with self.clock.phase("generate"):
            return self._make(count, purpose, what)

    def _make(self, count: int, purpose: int, what: str) -> Bank:
        draws, labels = self.random(purpose), None
        if self.conditional:
            picked = torch.randint(len(self.fit), (count,), generator=draws)
            labels = self.fit.labels[picked]
        latents = self.generator.draw(count, draws)
        images = torch.empty(count, *self.generator.shape, dtype=torch.uint8)
        self.progress.start(what, count)
        for start in range(0, count, _BLOCK):
            rows = slice(start, min(count, start + _BLOCK))
            told = None if labels is None else labels[rows]
            images[rows] = self.generator.bytes(latents[rows], told, draws)
            self.progress.advance(len(latents[rows]))
        self.progress.stop()
        return Bank(latents, images, labels)


def prepare(
    spec: GeneratorSpec,
    data: DataSpec,
    config: MhConfig,
    features: FeatureSource | None,
    owner: FeatureSource | None,
    progress: Progress,
    clock: Stopwatch,
) -> Job:
    """Open generator, data and extractors, and refuse what does not go together.

    Raises:
        BnnkitError: Something is missing or cannot be opened, or the two sides differ in shape,
            range or classes.
    """
    _check_named(config, features, owner)
    device = choose_device(config.device)
    generator = open_generator(spec, seed=config.seed, device=str(device))
    module = generator.form.module
    check_deliverable(spec.model, module.model if isinstance(module, Decoder) else module)
    _check_proposals(generator, config)
    parts = read_parts(data, generator, config)
    extractor, critic = (
        None if source is None else source.open(generator, device) for source in (features, owner)
    )
    progress.start("fitting the pixels' components")
    judges = appoint(extractor, parts, config)
    progress.stop()
    return Job(
        config, generator, parts.data, parts.fit, parts.held, parts.test, judges, extractor,
        critic, device, progress, clock, notes=[*generator.notes, *parts.notes],
    )  # fmt: skip


def _check_named(
    config: MhConfig, features: FeatureSource | None, owner: FeatureSource | None
) -> None:
    """Refuse a discriminator that needs a file which was not named."""
    what = f"Making the discriminator {config.discriminator!r}"
    if config.discriminator in ("features", "combined") and features is None:
        raise UsageError(
            what,
            "no features",
            "it is a regression on the features of a model",
            "Name a classifier with --features FILE and --features-arch NAME, or use "
            "--discriminator conv.",
        )
    if config.discriminator == "owner" and owner is None:
        raise UsageError(
            what,
            "no file",
            "it is the one that the generator was trained against",
            "Name it with --discriminator FILE, and --discriminator-arch NAME where it needs one.",
        )


def _check_proposals(generator: Generator, config: MhConfig) -> None:
    """Refuse proposals that the generator cannot make, before anything takes time."""
    if config.over_bank:
        return
    if generator.pixels == "sampled":
        raise UsageError(
            "Making proposals for each step", "sampled pixels",
            "a latent alone does not say which image of it was accepted",
            "Use --pixels mean, or independent proposals from a --bank.",
        )  # fmt: skip
    if config.proposal == "encoder" and generator.classes is not None:
        raise UsageError(
            "Proposing through an encoder", "a class-conditional generator",
            "the discriminator of pairs reads no labels", "Use --proposal independent or walk.",
        )  # fmt: skip
    if config.proposal != "independent" and generator.latent.kind != "normal":
        raise UsageError(
            f"Using --proposal {config.proposal}", f"latents of {generator.latent}",
            "its walk keeps N(0, I) as it is, and no other distribution",
            "Use --proposal independent.",
        )  # fmt: skip


def check_range(job: Job, bank: Bank) -> None:
    """Refuse images of another range than the real ones: the outputs were misread.

    Raises:
        DataError: They fill about half of the range of the real images, or less.
    """
    low, high = int(bank.images.min()), int(bank.images.max())
    least, most = int(job.fit.images.min()), int(job.fit.images.max())
    if high - low < _LEAST_RANGE * (most - least):
        raise DataError(
            f"Comparing the generator {job.generator.name!r} with the data {job.data.name!r}",
            f"its pixels go from {low} to {high}, and those of the data from {least} to {most}",
            "both must be in one range",
            "State the outputs of black and white with --out-range.",
        )
