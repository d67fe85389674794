"""What a filtering run works on: the generator, real images in three parts, and the judges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bnnkit.errors import ArchitectureError, BnnkitError, DataError
from bnnkit.io.data import Dataset, Split, load_data
from bnnkit.io.features import FeatureExtractor, Features, open_features
from bnnkit.io.generators import Generator, open_generator
from bnnkit.io.pixel_features import pixel_pca
from bnnkit.metrics import log_probabilities
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.generator import GeneratorSpec
from bnnkit.spec.mh import MhConfig

__all__ = [
    "Bank",
    "FeatureSource",
    "Job",
    "Judge",
    "Reals",
    "check_range",
    "class_probabilities",
    "prepare",
]

_COMPONENTS = 50
_LEAST, _LEAST_TEST = 200, 25
_LEAST_RANGE = 0.55
"""Least share of the range of real images that generated ones must fill."""
_BLOCK = 5000


@dataclass(frozen=True)
class FeatureSource:
    """A model whose features are used.

    Args:
        model: File and architecture.
        layer: Name of the layer; None takes what the last linear layer reads.
        mean: Subtracted from inputs in [0, 1]; None for a discriminator that reads images as the
            generator writes them.
        std: Divided by after that; None likewise.
        option: What it is named by, for errors.
    """

    model: ModelSpec
    layer: str | None = None
    mean: tuple[float, ...] | None = (0.0,)
    std: tuple[float, ...] | None = (1.0,)
    option: str = "--features"

    def open(self, generator: Generator, device: torch.device) -> FeatureExtractor:
        """Open the model for images of a generator."""
        mean, std = self.normalisation(generator)
        shape, layer = generator.shape, self.layer
        try:
            return open_features(
                self.model, shape, layer=layer, mean=mean, std=std, device=str(device)
            )
        except ArchitectureError as error:
            hint = error.hint.replace("--arch ", f"{self.option}-arch ")
            raise ArchitectureError(error.what, error.found, error.why, hint) from error

    def normalisation(self, generator: Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation; where none are stated, those of the generator's range."""
        low, high = (0.0, 1.0) if generator.out_range == "logits" else generator.out_range
        return self.mean or (-low / (high - low),), self.std or (1 / (high - low),)


@dataclass(frozen=True)
class Reals:
    """Real images of one part.

    Args:
        images: uint8 `[n, c, h, w]`.
        labels: int64 `[n]`; zeros where the data have none.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> Reals:
        """Return the images of some rows."""
        return Reals(self.images[rows], self.labels[rows])


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


@dataclass(frozen=True)
class Judge:
    """Features in which distances are taken.

    Args:
        extractor: From byte images to features.
        own: Whether the filter used these features itself.
        classes: Whether the outputs are scores of classes.
    """

    extractor: FeatureExtractor
    own: bool
    classes: bool

    @property
    def name(self) -> str:
        """The extractor and its layer."""
        return self.extractor.name


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
        device: Where nets compute.
        progress: Who is told.
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
    device: torch.device
    progress: Progress
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
    progress: Progress,
) -> Job:
    """Open generator, data and extractors, and refuse what does not go together.

    Raises:
        BnnkitError: Something cannot be opened, or the two sides differ in shape or range.
    """
    device = choose_device(config.device)
    generator = open_generator(spec, seed=config.seed, device=str(device))
    plain = replace(data, mean=(0.0,), std=(1.0,), augment="none")
    if generator.classes is None:
        plain = replace(plain, labelled=False)
    dataset = _load(plain, generator)
    notes = [*generator.notes]
    fit, held = _split(_reals(dataset.train, generator), config, notes)
    test = _limited(_reals(dataset.test, generator), config)
    if generator.classes is not None:
        _check_classes(generator, dataset)
    extractor = None
    if features is not None:
        extractor = features.open(generator, device)
    progress.start("fitting the pixels' components")
    judges = _judges(extractor, fit, test, config)
    progress.stop()
    return Job(
        config, generator, dataset, fit, held, test, judges, extractor, device, progress,
        notes=notes,
    )  # fmt: skip


def _load(spec: DataSpec, generator: Generator) -> Dataset:
    """Load images of the generator's shape, without a normalisation."""
    if spec.input_shape is None:
        native = load_data(spec)
        shape = tuple(native.input_shape)
        generator.check_against(shape, data=spec.name)
        return native
    return load_data(spec)


def _reals(split: Split, generator: Generator) -> Reals:
    """Read one part as bytes."""
    blocks = []
    for x, _ in split.batches(_BLOCK):
        low, high = float(x.min()), float(x.max())
        generator.check_against(tuple(x.shape[1:]), data="the real images", values=(low, high))
        blocks.append((x * 255).round().to(torch.uint8))
    return Reals(torch.cat(blocks), split.labels)


def _split(train: Reals, config: MhConfig, notes: list[str]) -> tuple[Reals, Reals]:
    """Keep some training images from the discriminator, at random; at most a third."""
    if len(train) < _LEAST:
        raise DataError(
            "Splitting the real images", f"{len(train)} of them",
            f"a discriminator needs {_LEAST} or more to be trained and judged",
            "Give more data.",
        )  # fmt: skip
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))
    held = min(config.held, len(train) // 3)
    if held < config.held:
        notes.append(
            f"{held:,} training images are kept from the discriminator, not {config.held:,}: a "
            "third of them at most."
        )
    return train.take(order[held:]), train.take(order[:held])


def _limited(test: Reals, config: MhConfig) -> Reals:
    if len(test) < _LEAST_TEST:
        raise DataError(
            "Judging samples by the test images", f"{len(test)} of them",
            f"a distance is taken from {_LEAST_TEST} or more", "Give more data.",
        )  # fmt: skip
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(config.seed))
    return test.take(order[: config.metric_samples])


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


def _check_classes(generator: Generator, data: Dataset) -> None:
    if len(data.classes) != generator.classes:
        raise DataError(
            f"Filtering {generator.name!r} with {data.name!r}",
            f"a generator of {generator.classes} classes and data of {len(data.classes)}",
            "chains are run for each class, so both must have the same",
            "Choose the classes of the data with --classes, in the generator's order.",
        )


def _judges(
    extractor: FeatureExtractor | None, fit: Reals, test: Reals, config: MhConfig
) -> list[Judge]:
    """Return the extractors that distances are taken in: the user's, and the pixels."""
    own = config.discriminator in ("features", "combined")
    judges = []
    if extractor is not None:
        trial = extractor(test.images[: min(64, len(test))])
        judges.append(Judge(extractor, own, class_probabilities(trial) is not None))
    components = min(_COMPONENTS, len(fit) - 1, fit.images[0].numel())
    judges.append(Judge(pixel_pca(fit.images, components, seed=config.seed), False, False))
    return judges


def class_probabilities(found: Features) -> Tensor | None:
    """Return class probabilities `[n, k]` where an extractor's outputs are class scores."""
    if found.outputs is None or found.outputs.dim() != 2 or found.outputs.shape[1] < 2:
        return None
    try:
        return log_probabilities(found.outputs).exp()
    except BnnkitError:
        return None  # outputs of another kind: there are no classes to count
