"""How an encoder answers: which of its outputs are the mean and the spread of q(z | x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, StructureError, UsageError
from bnnkit.io.autoencoder_forms import AutoencoderForm
from bnnkit.io.generator_trial import last_line
from bnnkit.spec.generator import shape_text

__all__ = ["EncoderReading", "read_encoder", "to_log_sigma"]

_SAME = 1e-6


@dataclass(frozen=True)
class EncoderReading:
    """Where mean and spread are.

    Args:
        flat: Whether it reads `[n, D]`, and not images.
        places: Of mean and spread among its outputs; None where they are halves of one.
        latent_shape: Shape of one latent as encoder and decoder write it.
    """

    flat: bool
    places: tuple[int, int] | None
    latent_shape: tuple[int, ...]

    def __call__(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return mean and spread, each `[n, d]`."""
        if self.places is None:
            mean, spread = outputs[0].chunk(2, dim=1)
        else:
            mean, spread = (outputs[place] for place in self.places)
        return mean.flatten(1), spread.expand_as(mean).flatten(1)


def to_log_sigma(kind: str, spread: Tensor) -> Tensor:
    """Return log sigma of what a net calls its spread.

    Args:
        kind: One of `spec.vae.SPREADS`.
        spread: Of any shape.
    """
    if kind == "sigma":
        return spread.log()
    if kind == "sigma2":
        return 0.5 * spread.log()
    return 0.5 * spread if kind == "logvar" else spread


def read_encoder(form: AutoencoderForm, images: Tensor, notes: list[str]) -> EncoderReading:
    """Run an encoder for the first time.

    Args:
        form: The autoencoder.
        images: Different images `[n, c, h, w]`, two or more, in the range that it reads.
        notes: Takes what was assumed.

    Returns:
        How its outputs are read.

    Raises:
        StructureError: It does not answer with a mean and a spread for each image.
        UsageError: It does not read these images, or draws random numbers.
    """
    outputs, flat = _first_outputs(form, images)
    x = images.flatten(1) if flat else images
    what = f"Running the encoder of {form.name!r}"
    n = len(images)
    if any(out.dim() < 2 or len(out) != n for out in outputs[:1]):
        raise StructureError(
            what, f"an output of {list(outputs[0].shape)} for {n} images",
            "there must be a row for each image", "Let it keep the batch axis.",
        )  # fmt: skip
    if len(outputs) == 1:
        shape = tuple(outputs[0].shape[1:])
        if shape[0] % 2:
            raise StructureError(
                what, f"one output of {shape_text(shape)} numbers",
                "it must be a mean and a spread, or both as the halves of one output",
                "Let encode(x) return them as a tuple.",
            )  # fmt: skip
        _refuse_noise(form, x, outputs, (0,))
        notes.append(
            f"Its encoder gives one output of {shape_text(shape)}: the first half is the mean, "
            "the second the spread."
        )
        return EncoderReading(flat, None, (shape[0] // 2, *shape[1:]))
    places = _places(form, x, outputs, notes)
    mean, spread = (outputs[place] for place in places)
    try:
        spread.expand_as(mean)
    except RuntimeError as error:
        raise StructureError(
            what, f"a mean of {list(mean.shape)} and a spread of {list(spread.shape)}",
            "both belong to the same latents", "Let encode(x) return mean and spread.",
        ) from error  # fmt: skip
    return EncoderReading(flat, places, tuple(mean.shape[1:]))


def _first_outputs(form: AutoencoderForm, images: Tensor) -> tuple[tuple[Tensor, ...], bool]:
    """Run it on images, or on flat ones where it does not read images."""
    faults = []
    for flat in (False, True):
        try:
            with torch.no_grad():
                return form.encode(images.flatten(1) if flat else images), flat
        except (BnnkitError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the owner's code
            faults.append(error)
    shape = tuple(images.shape[1:])
    raise UsageError(
        f"Running the encoder of {form.name!r} on images of {shape_text(shape)}",
        last_line(faults[0]) + ("" if len(shape) == 1 else f"; flattened: {last_line(faults[1])}"),
        "it does not read them",
        "Name the shape of its images with --input-shape, such as --input-shape 1,28,28.",
    ) from faults[0]


def _places(
    form: AutoencoderForm, x: Tensor, outputs: tuple[Tensor, ...], notes: list[str]
) -> tuple[int, int]:
    """Find mean and spread among two or more outputs: a drawn latent is neither."""
    if len(outputs) == 2:
        _refuse_noise(form, x, outputs, (0, 1))
        return 0, 1
    drawn = _drawn(form, x, outputs)
    fixed = [i for i in range(len(outputs)) if not drawn[i]]
    if len(outputs) != 3 or len(fixed) < 2:
        raise StructureError(
            f"Running the encoder of {form.name!r}",
            f"{len(outputs)} outputs, {sum(drawn)} of them drawn at random",
            "two of them must be the mean and the spread", "Let encode(x) return these two.",
        )  # fmt: skip
    rest = "the drawn latent is not used" if any(drawn) else "the third is not used"
    words = ("first", "second", "third")
    notes.append(
        f"Of the three outputs of its encoder the {words[fixed[0]]} is the mean and the "
        f"{words[fixed[1]]} the spread; {rest}."
    )
    return fixed[0], fixed[1]


def _refuse_noise(
    form: AutoencoderForm, x: Tensor, outputs: tuple[Tensor, ...], places: tuple[int, ...]
) -> None:
    """Refuse an encoder whose mean or spread is drawn."""
    drawn = _drawn(form, x, outputs)
    if any(drawn[place] for place in places):
        raise UsageError(
            f"Running the encoder of {form.name!r}", "other outputs for the same images",
            "mean and spread of q(z | x) must follow from the image",
            "Let encode(x) return mean and spread, and not a sample.",
        )  # fmt: skip


def _drawn(form: AutoencoderForm, x: Tensor, outputs: tuple[Tensor, ...]) -> list[bool]:
    """Tell which outputs differ when the same inputs are encoded once more."""
    with torch.no_grad():
        again = form.encode(x)
    return [
        a.shape != b.shape or bool(((a - b).abs() > _SAME * (1 + a.abs())).any())
        for a, b in zip(outputs, again, strict=True)
    ]
