"""How an encoder answers: which of its outputs are the mean and the spread of q(z | x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, StructureError, UsageError
from bnnkit.io.autoencoder_answers import Answer, is_possible
from bnnkit.io.autoencoder_faults import refuse_conditions, refuse_fault
from bnnkit.io.autoencoder_forms import AutoencoderForm
from bnnkit.io.autoencoder_pairs import drawn_outputs, ordinal, possible_pairs, refuse_noise
from bnnkit.io.generator_trial import last_line
from bnnkit.spec.generator import shape_text

__all__ = ["EncoderReading", "read_encoder", "to_log_sigma"]

_COUNT = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class EncoderReading:
    """Where mean and spread are.

    Args:
        flat: Whether it reads `[n, D]`, and not images.
        places: Of mean and spread among its outputs; None where they are halves of one.
        latent_shape: Shape of one latent as encoder and decoder write it.
        kind: One of `spec.vae.SPREADS` where the owner, or the name of an output, says what the
            spread is; None where nobody does.
        rivals: Other places that only the order of the outputs speaks against.
    """

    flat: bool
    places: tuple[int, int] | None
    latent_shape: tuple[int, ...]
    kind: str | None = None
    rivals: tuple[tuple[int, int], ...] = ()

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
    answer, flat = _first_answer(form, images)
    outputs, n = answer.tensors, len(images)
    x = images.flatten(1) if flat else images
    what = f"Running the encoder of {form.name!r}"
    if all(out.dim() < 2 or len(out) != n for out in outputs):
        raise StructureError(
            what, f"an output of {list(outputs[0].shape)} for {n} images",
            "there must be a row for each image", "Let it keep the batch axis.",
        )  # fmt: skip
    drawn = drawn_outputs(form, x, outputs)
    if len(outputs) > 1:
        return _of_pair(form, flat, answer, possible_pairs(form, x, answer, drawn), drawn, notes)
    shape = tuple(outputs[0].shape[1:])
    if shape[0] % 2:
        raise StructureError(
            what, f"one output of {shape_text(shape)} numbers",
            "it must be a mean and a spread, or both as the halves of one output",
            "Let encode(x) return them as a tuple.",
        )  # fmt: skip
    if drawn[0]:
        refuse_noise(form)
    notes.append(
        f"Its encoder gives one output of {shape_text(shape)}: the first half is the mean, the "
        "second the spread."
    )
    return EncoderReading(flat, None, (shape[0] // 2, *shape[1:]))


def _of_pair(
    form: AutoencoderForm,
    flat: bool,
    answer: Answer,
    pairs: tuple[tuple[int, int], ...],
    drawn: list[bool],
    notes: list[str],
) -> EncoderReading:
    """Take the first of the places that are possible; bounds may weigh the others."""
    (first, second), roles = pairs[0], answer.roles
    mean, spread = answer.tensors[first], answer.tensors[second]
    kind = roles[second] if roles[second] != "mean" else None
    if kind is not None and not is_possible(kind, spread):
        notes.append(
            f"Its output {answer.names[second]!r} goes down to {float(spread.min()):.4g}, which "
            f"no {kind} does: its name tells nothing."
        )
        kind = None
    ours = (form.model.arch or "").startswith("bnnkit:")
    if not ours:
        notes.append(_order(answer, first, second, drawn))
    weigh = form.model.file is not None and not ours  # fresh weights tell nothing
    rivals = pairs[1:] if weigh else ()
    return EncoderReading(flat, (first, second), tuple(mean.shape[1:]), kind, rivals)


def _order(answer: Answer, first: int, second: int, drawn: list[bool]) -> str:
    """Say which outputs are the mean and the spread."""
    names, k = answer.names, len(answer.names)
    mean, spread = (
        f"{names[place]!r}" if names[place] else f"the {ordinal(place)}"
        for place in (first, second)
    )
    rest = "; the others are not used" if k > 3 else ""
    if any(drawn):
        rest = "; the drawn latent is not used"
    elif k == 3:
        last = 3 - first - second
        rest = f"; {repr(names[last]) if names[last] else 'the ' + ordinal(last)} is not used"
    many = _COUNT.get(k, str(k))
    return (
        f"Of the {many} outputs of its encoder {mean} is the mean and {spread} the spread{rest}."
    )


def _first_answer(form: AutoencoderForm, images: Tensor) -> tuple[Answer, bool]:
    """Run it on images, or on flat ones where it does not read images."""
    refuse_conditions(form, "encode", form.encoder)
    faults = []
    for flat in (False, True):
        try:
            with torch.no_grad():
                return form.encode_named(images.flatten(1) if flat else images), flat
        except (BnnkitError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the owner's code
            faults.append(error)
    shape = tuple(images.shape[1:])
    what = f"Running the encoder of {form.name!r} on images of {shape_text(shape)}"
    for fault in faults:
        refuse_fault(form, what, fault)
    raise UsageError(
        what,
        last_line(faults[0]) + ("" if len(shape) == 1 else f"; flattened: {last_line(faults[1])}"),
        "it does not read them",
        "Name the shape of its images with --input-shape, such as --input-shape 1,28,28.",
    ) from faults[0]
