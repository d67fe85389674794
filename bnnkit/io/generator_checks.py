"""What a generator's outputs mean, found out on a few images: shape, range, labels, and faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnkit.errors import BnnkitError, DataError, StructureError, UsageError
from bnnkit.io.generator_forms import GeneratorForm
from bnnkit.io.generator_trial import check_inputs, first_output, last_line
from bnnkit.io.latents import Latent
from bnnkit.spec.generator import GeneratorSpec, OutRange, shape_text

__all__ = ["Meaning", "settle"]

_TRIED = 32
"""Images that are made when a generator is opened."""
_ROWS = 1e-4
"""How far an image in [0, 1] may move with its batch."""
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


def settle(
    form: GeneratorForm, prior: Latent, spec: GeneratorSpec, seed: int
) -> tuple[Meaning, list[str]]:
    """Make a few images and find out what they mean.

    Args:
        form: The generator.
        prior: Its latents.
        spec: What its owner said of it.
        seed: Seed of the latents.

    Returns:
        The meaning, and what was assumed or found, one sentence each.

    Raises:
        DataError: Outputs do not fit the stated range or shape, are equal, or not finite.
        StructureError: It does not answer with a row for each latent.
        UsageError: The latent or the labels do not fit.
    """
    notes: list[str] = []
    check_inputs(form, prior, spec)
    z = prior.draw(_TRIED, torch.Generator().manual_seed(seed))
    labels = None if spec.classes is None else torch.arange(_TRIED) % spec.classes
    with torch.no_grad():
        out, one_hot = first_output(form, prior, z, labels, spec)
        _check_output(form.name, out)
        shape, last = _shape(form.name, out, spec.shape, notes)
        chosen = _range(form.name, out.float(), spec.out_range, notes)
        meaning = Meaning(shape, chosen, spec.classes, one_hot, last)
        _check_latent_matters(form, meaning, z, labels)
        if labels is not None:
            sort = "one-hot numbers" if one_hot else "whole numbers"
            notes.append(f"It is told its {spec.classes} classes as {sort}.")
            _check_labels_matter(form, meaning, z)
        notes += _check_rows(form, meaning, z, labels, meaning.images(out, _TRIED))
    if form.module is not None and not _takes_gradients(form, meaning, z, labels):
        meaning = Meaning(shape, chosen, spec.classes, one_hot, last, differentiable=False)
        notes.append("No gradient flows through it.")
    elif form.module is None:
        meaning = Meaning(shape, chosen, spec.classes, one_hot, last, differentiable=False)
    return meaning, notes


# --- shape and range ------------------------------------------------------------------------


def _check_output(name: str, out: Tensor) -> None:
    """Refuse outputs that are no images."""
    what = f"Running the generator {name!r}"
    if out.dim() < 2 or len(out) != _TRIED:
        raise StructureError(
            what, f"an output of {list(out.shape)} for {_TRIED} latents",
            "there must be one image for each latent", "Let its forward keep the batch axis.",
        )  # fmt: skip
    if not out.is_floating_point():
        raise DataError(
            what, f"outputs of {str(out.dtype).removeprefix('torch.')}",
            "an image is of real numbers", "Let it return floats.",
        )  # fmt: skip
    bad = int((~torch.isfinite(out)).sum())
    if bad:
        raise DataError(
            what, f"{bad} of {out.numel()} outputs that are NaN or infinite",
            "they are no images", "Check its weights and its latent.",
        )  # fmt: skip


def _shape(
    name: str, out: Tensor, stated: tuple[int, int, int] | None, notes: list[str]
) -> tuple[tuple[int, int, int], bool]:
    """Return the shape of one image, and whether channels come last."""
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


def _range(name: str, out: Tensor, stated: OutRange | None, notes: list[str]) -> OutRange:
    """Return the range of the outputs: the stated one, checked, or the one that they show."""
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


# --- what must hold -------------------------------------------------------------------------


def _same_noise(run: Callable[[], Tensor]) -> Tensor:
    """Run with a fixed random state, for generators that draw numbers of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run()


def _check_latent_matters(
    form: GeneratorForm, meaning: Meaning, z: Tensor, labels: Tensor | None
) -> None:
    """Refuse a generator that makes the same images of other latents."""
    known = meaning.encode(labels)
    first, other = (
        meaning.images(_same_noise(lambda x=x: form(x, known)), _TRIED)  # type: ignore[misc]
        for x in (z, z.roll(1, 0))
    )
    if float((first - other).abs().max()) > _EQUAL:
        return
    equal = float((first - first[:1]).abs().max()) <= _EQUAL
    raise DataError(
        f"Running the generator {form.name!r}",
        f"{_TRIED} equal images" if equal else "the same images from other latents",
        "it does not follow its latent",
        "Check its weights and that the latent is its only input.",
    )


def _check_labels_matter(form: GeneratorForm, meaning: Meaning, z: Tensor) -> None:
    """Refuse a generator that makes the same images of other labels."""
    zeros = torch.zeros(_TRIED, dtype=torch.int64)
    first, other = (
        meaning.images(_same_noise(lambda y=y: form(z, meaning.encode(y))), _TRIED)  # type: ignore[misc]
        for y in (zeros, zeros + 1)
    )
    if float((first - other).abs().max()) <= _EQUAL:
        raise DataError(
            f"Running the generator {form.name!r}",
            "the same images for the classes 0 and 1",
            "it does not follow its labels",
            "Leave the classes out.",
        )


def _check_rows(
    form: GeneratorForm, meaning: Meaning, z: Tensor, labels: Tensor | None, together: Tensor
) -> list[str]:
    """Say where an image is not a function of its own latent."""
    known = meaning.encode(labels)
    again = meaning.images(form(z, known), _TRIED)
    if (gap := float((again - together).abs().max())) > _ROWS:
        return [
            f"It draws numbers of its own: the same latents gave images that differ by {gap:.2g}."
        ]
    what = f"Running the generator {form.name!r} on one latent alone"
    try:
        alone = form(z[:1], None if known is None else known[:1])
    except BnnkitError:
        raise
    except Exception as error:  # the owner's code, which may need two
        raise StructureError(
            what, last_line(error), "it runs on batches only",
            "Let its forward keep the batch axis.",
        ) from error  # fmt: skip
    if alone.numel() != math.prod(meaning.shape) or alone.dim() < 2:
        raise StructureError(
            what, f"an output of {list(alone.shape)}", "there must be one image for each latent",
            "Let its forward keep the batch axis.",
        )  # fmt: skip
    gap = float((meaning.images(alone, 1) - together[:1]).abs().max())
    if gap > _ROWS:
        return [
            f"An image depends on its batch: alone it differs by {gap:.2g} (of 1). Batch norm in "
            "train mode does that; save the generator in eval mode."
        ]
    return []


def _takes_gradients(
    form: GeneratorForm, meaning: Meaning, z: Tensor, labels: Tensor | None
) -> bool:
    """Tell whether gradients flow from images to latents."""
    known = meaning.encode(labels)
    few = z[:2].clone().requires_grad_()
    try:
        with torch.enable_grad():
            images = meaning.images(form(few, None if known is None else known[:2]), 2)
            (slope,) = torch.autograd.grad(images.sum(), few)
    except (RuntimeError, NotImplementedError):
        return False
    return bool(torch.isfinite(slope).all()) and bool(slope.abs().max() > 0)
