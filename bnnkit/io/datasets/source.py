"""What every kind of data is read into before it is fitted to a model: images and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["HELD_BYTES", "UNLABELLED", "HeldImages", "Images", "Part", "Source", "unlabelled"]

HELD_BYTES = 2 << 30
"""Images that take more than this (2 GiB) are decoded or resized batch by batch."""

UNLABELLED = ("unlabelled",)
"""The one class of data that are read without labels."""


class Images(Protocol):
    """A pool of inputs, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: `(c, h, w)` or `(features,)`."""

    @property
    def is_byte(self) -> bool:
        """Whether the values are uint8, 0 to 255."""

    def __len__(self) -> int: ...

    def select(self, rows: Tensor) -> Images:
        """Return the pool of these rows `[m]`, in this order."""

    def joined(self, other: Self) -> Self:
        """Return the inputs of this pool and, after them, those of another of its shape."""

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the inputs `[b, ...]` of each chunk of rows `[b]`."""


@dataclass(frozen=True)
class HeldImages:
    """Inputs held as one tensor.

    Args:
        pixels: `[n, c, h, w]` or `[n, features]`, uint8 or float32.
    """

    pixels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.pixels.shape[1:])

    @property
    def is_byte(self) -> bool:
        """Whether the values are uint8."""
        return not self.pixels.is_floating_point()

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, rows: Tensor) -> HeldImages:
        """Return the inputs of these rows."""
        return HeldImages(self.pixels[rows])

    def joined(self, other: HeldImages) -> HeldImages:
        """Return these inputs and, after them, those of another pool."""
        return HeldImages(torch.cat([self.pixels, other.pixels]))

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the inputs of each chunk of rows."""
        for rows in chunks:
            yield self.pixels[rows]


@dataclass(frozen=True)
class Part:
    """One part of a data set.

    Args:
        images: `n` inputs.
        labels: int64 `[n]`.
    """

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Part:
        """Return the examples of these rows `[m]`."""
        return Part(self.images.select(rows), self.labels[rows])

    def joined(self, other: Part) -> Part:
        """Return these examples and, after them, those of another part of the same data."""
        return Part(self.images.joined(other.images), torch.cat([self.labels, other.labels]))


def unlabelled(images: Images) -> Part:
    """Return inputs as a part whose labels are all 0."""
    return Part(images, torch.zeros(len(images), dtype=torch.int64))


@dataclass
class Source:
    """Data as they were found.

    Args:
        name: What reports call them.
        train: The training part, or everything where there is no test part.
        test: The test part; None asks for a split.
        classes: Class names; a label is an index into them.
        classes_known: False where the classes were counted from the labels that are present.
        mean: The name's own per-channel mean in [0, 1]; None asks for a measurement.
        std: The name's own per-channel deviation.
        as_given: Whether the values are already what the model reads.
        crops: Whether shifted images are still of their class and worth training on.
        mirrors: Whether mirrored images are still of their class.
        notes: What was assumed or changed.
    """

    name: str
    train: Part
    test: Part | None
    classes: tuple[str, ...]
    classes_known: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    as_given: bool = False
    crops: bool = True
    mirrors: bool = True
    notes: list[str] = field(default_factory=list)
