"""Real images in three parts: to train on, to start and choose by, and to judge by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.io.data import Dataset, Split, load_data
from bnnkit.io.generators import Generator
from bnnkit.spec import DataSpec
from bnnkit.spec.mh import MhConfig

__all__ = ["Parts", "Reals", "read_parts"]

_LEAST, _LEAST_TEST = 200, 25
_BLOCK = 5000


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
class Parts:
    """The real images of a run.

    Args:
        data: What they were read from.
        fit: Those that discriminators are trained on.
        held: Those for starts, calibration and choices.
        test: Those that results are judged by.
        notes: What the report points out.
    """

    data: Dataset
    fit: Reals
    held: Reals
    test: Reals
    notes: tuple[str, ...]


def read_parts(spec: DataSpec, generator: Generator, config: MhConfig) -> Parts:
    """Read real images of a generator's shape as bytes, without a normalisation, and split them.

    Args:
        spec: The data.
        generator: What their shape, range and classes must go with.
        config: How many are held back and tested on, and the seed of the splits.

    Raises:
        BnnkitError: They cannot be read, do not go with the generator, or are too few.
    """
    plain = replace(spec, mean=(0.0,), std=(1.0,), augment="none")
    if generator.classes is None and spec.classes is None:
        plain = replace(plain, labelled=False)
    data = load_data(plain)
    if plain.input_shape is None:
        generator.check_against(tuple(data.input_shape), data=plain.name)
    if generator.classes is not None:
        _check_classes(generator, data)
    train = _as_bytes(data.train, generator)
    _check_variety(train, data)
    fit, held, notes = _split(train, config)
    if generator.classes is not None:
        _check_held(fit, held, data)
    return Parts(data, fit, held, _tested(_as_bytes(data.test, generator), config), notes)


def _as_bytes(split: Split, generator: Generator) -> Reals:
    """Read one part as bytes."""
    blocks = []
    for x, _ in split.batches(_BLOCK):
        low, high = float(x.min()), float(x.max())
        generator.check_against(tuple(x.shape[1:]), data="the real images", values=(low, high))
        blocks.append((x * 255).round().to(torch.uint8))
    return Reals(torch.cat(blocks), split.labels)


def _split(train: Reals, config: MhConfig) -> tuple[Reals, Reals, tuple[str, ...]]:
    """Keep some training images from the discriminator, at random; at most a third."""
    if len(train) < _LEAST:
        raise DataError(
            "Splitting the real images", f"{len(train)} of them",
            f"a discriminator needs {_LEAST} or more to be trained and judged",
            "Give more data.",
        )  # fmt: skip
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))
    held = min(config.held, len(train) // 3)
    notes = () if held == config.held else (
        f"{held:,} training images are kept from the discriminator, not {config.held:,}: a "
        "third of them at most.",
    )  # fmt: skip
    return train.take(order[held:]), train.take(order[:held]), notes


def _tested(test: Reals, config: MhConfig) -> Reals:
    """Take test images at random, as many as metrics look at."""
    if len(test) < _LEAST_TEST:
        raise DataError(
            "Judging samples by the test images", f"{len(test)} of them",
            f"a distance is taken from {_LEAST_TEST} or more", "Give more data.",
        )  # fmt: skip
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(config.seed))
    return test.take(order[: config.metric_samples])


def _check_variety(train: Reals, data: Dataset) -> None:
    """Refuse images that are all the same: there is no distribution to come closer to."""
    if bool((train.images == train.images[:1]).all()):
        raise DataError(
            f"Reading the real images of {data.name!r}",
            f"{len(train):,} equal images",
            "there is nothing in them that a filter could bring samples closer to",
            "Check the file and the range of its values.",
        )


def _check_held(fit: Reals, held: Reals, data: Dataset) -> None:
    """Refuse a class without a held-out image, at whose score its chains could start."""
    lost = sorted(set(fit.labels.tolist()) - set(held.labels.tolist()))
    if lost:
        names = ", ".join(repr(data.classes[label]) for label in lost[:3])
        raise DataError(
            f"Splitting the real images of {data.name!r}",
            f"none of {len(held)} held-out images is of the class {names}"
            + (f" (or of {len(lost) - 3} more)" if len(lost) > 3 else ""),
            "chains of a class start at real images of it that the discriminator has not seen",
            "Use more data, a larger --held, or fewer classes with --classes.",
        )


def _check_classes(generator: Generator, data: Dataset) -> None:
    """Refuse data of another number of classes."""
    if len(data.classes) != generator.classes:
        raise DataError(
            f"Filtering {generator.name!r} with {data.name!r}",
            f"a generator of {generator.classes} classes and data of {len(data.classes)}",
            "chains are run for each class, so both must have the same",
            "Choose the classes of the data with --classes, in the generator's order.",
        )
