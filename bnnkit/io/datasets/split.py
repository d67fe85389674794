"""One part of a data set as batches that a model reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnkit.errors import UsageError
from bnnkit.io.datasets.augment import Augment
from bnnkit.io.datasets.source import Part
from bnnkit.io.datasets.subsets import random_rows

__all__ = ["Preprocess", "Split", "resize"]

_CHUNK = 256
_LEVEL = 1e-3
"""How far 255 times a float may be from a whole number that was a byte."""


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as torchvision's Resize does: bilinear with antialiasing.

    Args:
        x: `[b, c, h, w]`, uint8 or float.
        size: Height and width wanted.

    Returns:
        `[b, c, *size]`, same type.
    """
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True)
class Preprocess:
    """What happens to a batch between the store and the model.

    Args:
        unit: What stored values are divided by to be in [0, 1].
        mean: Per channel, or one for all, subtracted after that.
        std: Likewise, divided by.
        size: Height and width to resize to; None where the store already has them.
        repeat: How often the one stored channel is repeated.
        flatten: Whether the model reads `[b, features]`.
        augment: What training batches go through.
    """

    unit: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    repeat: int = 1
    flatten: bool = False
    augment: Augment | None = None

    def __call__(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Turn stored values `[b, ...]` into model inputs, float32; augment with a generator."""
        if self.size is not None:
            x = resize(x, self.size)
        if self.augment is not None and generator is not None:
            x = self.augment(x, generator)
        if self.repeat > 1:
            x = x.expand(-1, self.repeat, -1, -1)
        std = torch.tensor(self.std, dtype=torch.float64)
        shift = -torch.tensor(self.mean, dtype=torch.float64) / std
        column = (-1,) + (1,) * (x.dim() - 2)
        scale = (1 / (self.unit * std)).float().view(column)
        out = (x.float() * scale).add_(shift.float().view(column))
        return out.flatten(1) if self.flatten else out


@dataclass(frozen=True)
class Split:
    """Labelled examples with their preprocessing.

    Args:
        part: Stored inputs and labels.
        preprocess: From the store to the model.
        classes: How many classes there are.
        classes_known: False where that is the largest label present plus one.
    """

    part: Part
    preprocess: Preprocess
    classes: int
    classes_known: bool = True

    def __len__(self) -> int:
        return len(self.part)

    @property
    def labels(self) -> Tensor:
        """Labels, int64 `[n]`."""
        return self.part.labels

    def select(self, rows: Tensor) -> Split:
        """Return the examples of these rows `[m]`, in this order."""
        return replace(self, part=self.part.select(rows))

    def take(self, n: int, generator: torch.Generator) -> Split:
        """Return a random subset of at most `n` examples."""
        return self.select(random_rows(len(self), n, generator))

    def joined(self, other: Split) -> Split:
        """Return these examples and, after them, those of another part of the same data."""
        return replace(self, part=self.part.joined(other.part))

    def digests(self) -> list[bytes]:
        """Return 16 bytes for each input, the same for the same input.

        Bytes and their 255th parts, as another file may hold them, are the same input.
        """
        out: list[bytes] = []
        for x in self.part.images.stream(torch.split(torch.arange(len(self)), _CHUNK)):
            if self.preprocess.size is not None:
                x = resize(x, self.preprocess.size)
            rows = x.flatten(1).float()
            scaled = rows * (255 / self.preprocess.unit)
            levels = scaled.round().clamp(0, 255)
            are_bytes = ((scaled - levels).abs() < _LEVEL).all(1)
            for row, level, is_byte in zip(rows, levels.byte(), are_bytes.tolist(), strict=True):
                values = (level if is_byte else row).numpy()
                out.append(hashlib.blake2b(values.tobytes(), digest_size=16).digest())
        return out

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the examples once.

        Args:
            batch_size: Examples a batch; the last batch may have fewer.
            shuffle: Whether the order is drawn anew.
            augment: Whether batches go through the augmentation, where there is one.
            generator: Source of order and augmentation; needed for either.
            drop_last: Whether a last batch that is not full is left out.

        Returns:
            Pairs of inputs, float32 `[b, c, h, w]` (or `[b, features]`), and labels, int64 `[b]`.

        Raises:
            UsageError: `batch_size` is not positive, or the generator is missing.
        """
        if batch_size < 1:
            raise UsageError("Reading batches", f"a batch size of {batch_size}", "it must be >= 1")
        if (shuffle or augment) and generator is None:
            raise UsageError(
                "Reading batches",
                "no generator",
                "the order and the augmentation are drawn from one",
                "Pass generator=torch.Generator().manual_seed(0).",
            )
        n = len(self)
        order = torch.randperm(n, generator=generator) if shuffle else torch.arange(n)
        chunks = torch.split(order, batch_size)
        if drop_last and n % batch_size:
            chunks = chunks[:-1]
        return self._stream(chunks, generator if augment else None)

    def _stream(
        self, chunks: tuple[Tensor, ...], generator: torch.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, x in zip(chunks, self.part.images.stream(chunks), strict=True):
            yield self.preprocess(x, generator), self.labels[rows]
