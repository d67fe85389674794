"""What a generator's outputs mean: how a few of them are read as images of a shape and range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnkit.errors import DataError, UsageError
from bnnkit.spec.generator import OutRange, shape_text

__all__ = ["Meaning", "read_range", "read_shape"]

_EQUAL = 1e-6
_OVERSHOOT = 0.1
"""Share of the range that outputs may lie outside of it: the mean of a Gaussian decoder does."""
_UNDERUSE = 0.01
"""Outputs that span less than this share of their range were given another one."""
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Meaning:
    """How raw outputs become images.

    Args:
        shape: Channels, height and width.
        out_range: Outputs of black and of white, or `logits`.
        classes: Number of classes that it is told, or None.
        one_hot: Whether labels go in as one-hot floats, and not as numbers.
        channels_last: Whether outputs are `[n, H, W, C]`.
        differentiable: Whether gradients flow from images to latents.
    """

    shape: tuple[int, int, int]
    out_range: OutRange
    classes: int | None = None
    one_hot: bool = False
    channels_last: bool = False
    differentiable: bool = True

    def encode(self, labels: Tensor | None) -> Tensor | None:
        """Bring labels, int64 `[n]`, to what the generator reads."""
        if labels is None or not self.one_hot:
            return labels
        assert self.classes is not None  # one-hot labels were tried with them
        return F.one_hot(labels, self.classes).float()

    def images(self, out: Tensor, n: int) -> Tensor:
        """Map raw outputs of `n` latents to float32 `[n, C, H, W]` in [0, 1]."""
        if self.channels_last:
            out = out.permute(0, 3, 1, 2)
        out = out.float().reshape(n, *self.shape)
        if self.out_range == "logits":
            return torch.sigmoid(out)
        low, high = self.out_range
        return ((out - low) / (high - low)).clamp(0, 1)


def read_shape(
    name: str, out: Tensor, stated: tuple[int, int, int] | None, notes: list[str]
) -> tuple[tuple[int, int, int], bool]:
    """Read the shape of one image off the outputs.

    Args:
        name: The generator, for errors.
        out: Raw outputs `[n, ...]`.
        stated: What its owner said.
        notes: Takes what was assumed.

    Returns:
        Channels, height and width, and whether channels come last.

    Raises:
        DataError: The outputs are not of the stated shape.
        UsageError: They are flat, and none was stated.
    """
    found = tuple(out.shape[1:])
    last = len(found) == 3 and found[2] in _CHANNELS and found[0] not in _CHANNELS
    if stated is not None:
        moved = (stated[1], stated[2], stated[0])
        if len(found) == 3 and found not in (stated, moved):
            raise _misshapen(name, found, stated)
        if math.prod(found) != math.prod(stated):
            raise _misshapen(name, found, stated)
        last = found == moved != stated
    elif len(found) == 3:
        stated = (found[2], found[0], found[1]) if last else (found[0], found[1], found[2])
    elif len(found) == 2:
        stated = (1, *found)
    else:
        raise UsageError(
            f"Running the generator {name!r}",
            f"flat outputs of {shape_text(found)} numbers",
            "they do not say what their height and width are",
            "Say it with --shape, such as --shape 1,28,28.",
        )
    if last:
        notes.append(f"Its outputs of {shape_text(found)} have their channels last.")
    return stated, last


def _misshapen(name: str, found: tuple[int, ...], stated: tuple[int, ...]) -> DataError:
    hint = f"Give the shape that has {math.prod(found)} numbers."
    side = math.isqrt(math.prod(found))
    if len(found) == 3 or side * side == math.prod(found):
        hint = f"Use --shape {','.join(map(str, found if len(found) == 3 else (1, side, side)))}."
    return DataError(
        f"Reading the images of {name!r} as {shape_text(stated)}",
        f"outputs of {shape_text(found)}, {math.prod(found)} numbers",
        f"an image of {shape_text(stated)} has {math.prod(stated)}"
        + ("" if math.prod(found) != math.prod(stated) else " in another order"),
        hint,
    )


def read_range(name: str, out: Tensor, stated: OutRange | None, notes: list[str]) -> OutRange:
    """Return the range of the outputs: the stated one, checked, or the one that they show.

    Args:
        name: The generator, for errors.
        out: Raw outputs, floats of any shape.
        stated: What its owner said.
        notes: Takes what was assumed or found.

    Raises:
        DataError: The outputs do not fit the stated range.
        UsageError: They leave it open, and none was stated.
    """
    low, high = float(out.min()), float(out.max())
    fitting = _fitting(low, high)
    what = f"Reading the outputs of {name!r}"
    if stated is None and fitting is None:
        raise UsageError(
            what, f"values from {low:.4g} to {high:.4g}",
            "they leave open which of them are black and white",
            "Say it with --out-range=-1,1, 0,1, 0,255 or logits.",
        )  # fmt: skip
    if stated is None:
        assert fitting is not None  # checked above
        notes.append(
            f"Its outputs go from {low:.3g} to {high:.3g}: read as [{fitting[0]:g}, "
            f"{fitting[1]:g}]."
        )
        return fitting
    if stated == "logits":
        if fitting is not None and high <= 1:
            raise DataError(
                f"{what} as logits", f"values from {low:.4g} to {high:.4g}",
                "their sigmoids are all grey", f"Use --out-range={fitting[0]:g},{fitting[1]:g}.",
            )  # fmt: skip
        return stated
    span = stated[1] - stated[0]
    outside = max(stated[0] - low, high - stated[1]) / span
    if outside > _OVERSHOOT or (high - low) < _UNDERUSE * span:
        hint = "Use --out-range logits if a sigmoid belongs after it."
        if fitting is not None and fitting != stated:
            hint = f"Use --out-range={fitting[0]:g},{fitting[1]:g}."
        why = "they lie outside" if outside > _OVERSHOOT else "they hardly fill it"
        raise DataError(
            f"{what} as {stated[0]:g} to {stated[1]:g}",
            f"values from {low:.4g} to {high:.4g}", why, hint,
        )  # fmt: skip
    if outside > 1e-3:
        notes.append(f"Outputs from {low:.3g} to {high:.3g} are cut to the stated range.")
    elif low >= stated[0] + span / 2 or high <= stated[1] - span / 2:
        notes.append(f"Its outputs fill half of their range: {low:.3g} to {high:.3g}.")
    return stated


def _fitting(low: float, high: float) -> tuple[float, float] | None:
    """Return the usual range that values show beyond doubt, or None."""
    for a, b in _RANGES:
        inside = a - _EQUAL <= low and high <= b + _EQUAL
        if inside and low <= a + 0.25 * (b - a) and high >= b - 0.5 * (b - a):
            return a, b
    return None
