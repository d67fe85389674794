"""Which mean and deviation inputs are normalised with."""

from __future__ import annotations

import torch

from bnnkit.errors import DataError
from bnnkit.io.datasets.source import HeldImages, Images, Source
from bnnkit.io.datasets.subsets import random_rows

__all__ = ["normalisation"]

_CHUNK = 2048


def normalisation(
    source: Source,
    images: Images,
    channels: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Choose the normalisation: the one asked for, the name's own, or measured ones.

    Args:
        source: The data; notes are added where something was measured.
        images: The training images as they are stored.
        channels: Channels that the model receives; 1 for inputs without channels.
        mean: Mean asked for, one number or one a channel.
        std: Deviation asked for, likewise.

    Returns:
        Mean and deviation, one a channel.

    Raises:
        DataError: As many numbers were asked for as fit no channel count.
    """
    own = (source.mean, source.std)
    if own[0] is None or own[1] is None:
        if source.as_given:
            own = ((0.0,), (1.0,))
            if mean is None and std is None:
                source.notes.append("float inputs are taken as they are, not normalised")
        elif mean is None or std is None:
            own = _measure(images)
            source.notes.append("mean and deviation are measured on the training images")
    chosen = (mean or own[0] or (0.0,), std or own[1] or (1.0,))
    a, b = (_spread(v, channels, source.name) for v in chosen)
    return a, b


def _spread(values: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    raise DataError(
        f"Normalising {name!r}",
        f"{len(values)} numbers for {channels} channels",
        "mean and deviation have one number a channel, or one for all",
        f"Give 1 or {channels} numbers to --mean and --std.",
    )


def _measure(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure per channel (over everything for inputs without channels) in [0, 1].

    Images that are not held are represented by a seeded sample.
    """
    if isinstance(images, HeldImages):
        rows = torch.arange(len(images))
    else:
        rows = random_rows(len(images), _CHUNK, torch.Generator().manual_seed(0))
    sums = squares = torch.zeros(1, dtype=torch.float64)
    count = 0
    for x in images.stream(torch.split(rows, _CHUNK)):
        flat = x.transpose(0, 1).flatten(1) if x.dim() == 4 else x.reshape(1, -1)
        flat = flat.float()
        # float32 is exact enough within a chunk; the chunks are added up in float64
        mean = flat.mean(1)
        sums = sums + mean.double() * flat.shape[1]
        squares = squares + (flat.square().mean(1)).double() * flat.shape[1]
        count += flat.shape[1]
    unit = 255.0 if images.is_byte else 1.0
    mean64 = sums / count
    deviation = (squares / count - mean64.square()).clamp_min(0).sqrt() / unit
    deviation = torch.where(deviation > 1e-6, deviation, 1.0)  # a constant channel stays as it is
    return tuple((mean64 / unit).tolist()), tuple(deviation.tolist())
