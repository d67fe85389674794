"""What must hold for a generator, found out on a few images when it is opened."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, DataError, StructureError
from bnnkit.io.generator_forms import GeneratorForm
from bnnkit.io.generator_meaning import Meaning, read_range, read_shape
from bnnkit.io.generator_trial import check_inputs, first_output, last_line
from bnnkit.io.latents import Latent
from bnnkit.spec.generator import GeneratorSpec

__all__ = ["settle"]

_TRIED = 32
"""Images that are made when a generator is opened."""
_ROWS = 1e-4
"""How far an image in [0, 1] may move with its batch."""
_EQUAL = 1e-6


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
    labels = None if spec.classes is None else _spread(spec.classes)
    with torch.no_grad():
        out, one_hot = first_output(form, prior, z, labels, spec)
        _check_output(form.name, out)
        shape, last = read_shape(form.name, out, spec.shape, notes)
        chosen = read_range(form.name, out.float(), spec.out_range, notes)
        meaning = Meaning(shape, chosen, spec.classes, one_hot, last)
        _check_latent_matters(form, prior, meaning, z, labels)
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


def _spread(classes: int) -> Tensor:
    """Return labels for the trial, int64 `[32]`: the first and the last are among them."""
    if classes <= _TRIED:
        return torch.arange(_TRIED) % classes
    return torch.linspace(0, classes - 1, _TRIED, dtype=torch.float64).round().long()


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


def _same_noise(run: Callable[[], Tensor]) -> Tensor:
    """Run with a fixed random state, for generators that draw numbers of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run()


def _check_latent_matters(
    form: GeneratorForm, prior: Latent, meaning: Meaning, z: Tensor, labels: Tensor | None
) -> None:
    """Refuse a generator that makes the same images of other latents."""
    known = meaning.encode(labels)
    first, other = (
        meaning.images(_same_noise(lambda x=x: form(x, known)), _TRIED)  # type: ignore[misc]
        for x in (z, z.roll(1, 0))
    )
    if float((first - other).abs().max()) > _EQUAL:
        return
    what = f"Running the generator {form.name!r} on latents {str(prior.spec)!r}"
    if float((first - first[:1]).abs().max()) <= _EQUAL:
        raise DataError(
            what,
            f"{_TRIED} equal images of {_TRIED} different latents",
            "it does not follow its latent",
            f"Check that {str(prior.spec)!r} is what it was trained with (--latent), and that "
            "the checkpoint holds trained weights.",
        )
    raise DataError(
        what,
        "the same images from other latents",
        "it does not follow its latent",
        "Let its images depend on the latent that it is called with, and on nothing random.",
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
            "Leave --conditional out.",
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
