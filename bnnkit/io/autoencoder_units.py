"""Pixels of an autoencoder: what its likelihood is of, and what its encoder reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["BINARISED", "BINARISE_SEED", "Units", "binarise_split"]

BINARISE_SEED = 20151119
"""Seed of numpy's PCG64, from which the fixed binarisation of a split is drawn."""

BINARISED = {
    "bernoulli": "A Bernoulli likelihood of binarised pixels: each is drawn once as 0 or 1 with "
    "its grey value as the probability (numpy PCG64, seed 20151119).",
    "threshold": "A Bernoulli likelihood of pixels that are cut at a half.",
    "none": "A Bernoulli likelihood of pixels as they are.",
}
"""What the pixels of a Bernoulli likelihood are, in a sentence, by `spec.vae.BINARISE`."""

_ROWS = 1024
_LEVELS = 255
_SNAP = 1e-3
"""How far 255 times a float may be from a whole number that was a byte."""


def binarise_split(images: Tensor, seed: int = BINARISE_SEED, *, start: int = 0) -> Tensor:
    """Draw each pixel as 1 with its grey value as the probability, always in the same way.

    Uniform numbers come from `numpy.random.Generator(PCG64(seed))`, in the order of the data, so
    that a datum gets the same pixels whatever number of them is asked for. Floats that are 255th
    parts of bytes give what those bytes give.

    Args:
        images: `[n, ...]`, uint8, or floats in [0, 1].
        seed: Of the stream of uniform numbers.
        start: Place of the first of these images in its split.

    Returns:
        Zeros and ones, float32 `[n, ...]`, where the images are.
    """
    size = images[:1].numel()
    stream = np.random.PCG64(seed)
    stream.advance(start * size)  # one state a number
    source = np.random.Generator(stream)
    parts = [
        torch.from_numpy(source.random(tuple(part.shape))) < _probabilities(part.cpu())
        for part in torch.split(images, _ROWS)
    ]
    return torch.cat(parts).float().to(images.device)


def _probabilities(images: Tensor) -> Tensor:
    """Return float64 in [0, 1]; exact 255th parts where the values come from bytes."""
    if not images.is_floating_point():
        return images.double() / _LEVELS
    x = images.double()
    levels = (x * _LEVELS).round()
    return torch.where((x * _LEVELS - levels).abs() < _SNAP, levels / _LEVELS, x)


@dataclass(frozen=True)
class Units:
    """What the numbers of a datum are.

    Args:
        likelihood: One of `spec.vae.VAE_LIKELIHOODS`.
        binarise: One of `spec.vae.BINARISE`.
        reads: Values of black and of white that the encoder reads.
        gives: Values of black and of white that the likelihood is of; those of a Gaussian
            decoder may be others than 0 and 1.
    """

    likelihood: str
    binarise: str
    reads: tuple[float, float] = (0.0, 1.0)
    gives: tuple[float, float] = (0.0, 1.0)

    def prepare(self, images: Tensor, *, start: int = 0) -> Tensor:
        """Bring images in [0, 1], `[n, ...]`, to the units of the likelihood, `[n, D]`.

        Args:
            images: Floats in [0, 1].
            start: Place of the first of them in its split.
        """
        x = images.flatten(1).float()
        if self.likelihood == "categorical256":
            return (x * _LEVELS).round().clamp(0, _LEVELS)
        if self.binarise == "bernoulli":
            return binarise_split(x, start=start)
        if self.binarise == "threshold":
            return (x > 0.5).float()
        return _mapped(x, (0.0, 1.0), self.gives)

    def to_encoder(self, x: Tensor) -> Tensor:
        """Map data in the units of the likelihood to what the encoder reads, `[n, D]`."""
        return _mapped(x.float(), self.unit, self.reads)

    def to_images(self, x: Tensor) -> Tensor:
        """Map data, or means, in the units of the likelihood to [0, 1]."""
        return _mapped(x, self.unit, (0.0, 1.0))

    @property
    def unit(self) -> tuple[float, float]:
        """Black and white in the units of the likelihood."""
        return (0.0, float(_LEVELS)) if self.likelihood == "categorical256" else self.gives


def _mapped(x: Tensor, old: tuple[float, float], new: tuple[float, float]) -> Tensor:
    """Map one range of values linearly to another."""
    if old == new:
        return x
    scale = (new[1] - new[0]) / (old[1] - old[0])
    return (x - old[0]) * scale + new[0]
