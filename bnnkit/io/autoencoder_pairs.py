"""Which two of an encoder's outputs can be the mean and the spread of q(z | x)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnnkit.errors import StructureError, UsageError
from bnnkit.io.autoencoder_answers import SAME, Answer, is_constant, same_values
from bnnkit.io.autoencoder_forms import AutoencoderForm
from bnnkit.io.autoencoder_meaning import LEVELS
from bnnkit.spec.vae import SPREADS

__all__ = ["TELL", "drawn_outputs", "ordinal", "possible_pairs", "refuse_noise"]

TELL = "Let encode(x) return mean and spread alone, or a dictionary with the keys mu and logvar."
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

_Pair = tuple[int, int]


def ordinal(place: int) -> str:
    """Return `first` of 0, and so on."""
    return _ORDINALS[place] if place < len(_ORDINALS) else f"{place + 1}th"


def drawn_outputs(form: AutoencoderForm, x: Tensor, outputs: Sequence[Tensor]) -> list[bool]:
    """Tell which outputs differ when the same inputs are encoded once more."""
    with torch.no_grad():
        again = form.encode(x)
    return [
        a.shape != b.shape or bool(((a - b).abs() > SAME * (1 + a.abs())).any())  # NaN is equal
        for a, b in zip(_floats(outputs), _floats(again), strict=True)
    ]


def _floats(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [out.float() for out in outputs]


def refuse_noise(form: AutoencoderForm) -> None:
    """Refuse an encoder whose mean or spread is drawn.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        f"Running the encoder of {form.name!r}", "other outputs for the same images",
        "mean and spread of q(z | x) must follow from the image",
        "Let encode(x) return mean and spread, and not a sample.",
    )  # fmt: skip


def possible_pairs(
    form: AutoencoderForm, x: Tensor, answer: Answer, drawn: Sequence[bool]
) -> tuple[_Pair, ...]:
    """Return the places of mean and spread that two or more outputs allow.

    Names decide where there are any. A drawn latent is neither, an output that equals an earlier
    one tells nothing new, and the decoder must read the mean.

    Args:
        form: The autoencoder.
        x: What the encoder read, `[n, ...]`.
        answer: Its answer.
        drawn: Which of its outputs are drawn at random.

    Returns:
        Places of mean and spread, in the order of the outputs.

    Raises:
        StructureError: There are none, or latents of several shapes.
        UsageError: A mean or spread is drawn at random.
    """
    roles, outputs = answer.roles, answer.tensors
    means = [i for i, role in enumerate(roles) if role == "mean"]
    spreads = [i for i, role in enumerate(roles) if role in SPREADS]
    told = {*means, *spreads}
    if (len(outputs) == 2 and any(drawn)) or any(
        named and all(drawn[i] for i in named) for named in (means, spreads)
    ):
        refuse_noise(form)
    floats = [i for i, out in enumerate(outputs) if out.is_floating_point() and not drawn[i]]
    new = _distinct(outputs, floats, told)
    firsts = [i for i in new if i in means] or [i for i in new if i not in spreads]
    seconds = [i for i in new if i in spreads] or [i for i in new if i not in means]
    pairs = [(i, j) for i in firsts for j in seconds if i != j]
    fitting = [pair for pair in pairs if _fits(outputs, pair, len(x))]
    if not fitting:
        _refuse_pairs(form, outputs, drawn, pairs)
    fitting = _decoded(form, outputs, _likely(outputs, fitting), x[0].numel())
    if len({outputs[i].shape for i, _ in fitting}) > 1:
        raise StructureError(
            f"Running the encoder of {form.name!r}",
            f"outputs of {[list(out.shape) for out in outputs]}",
            "they leave open which of them is the mean", TELL,
        )  # fmt: skip
    return tuple(sorted(fitting, key=lambda pair: (pair[0] > pair[1], pair)))


def _distinct(outputs: Sequence[Tensor], places: Sequence[int], told: set[int]) -> list[int]:
    """Leave out what equals another; of two equal ones that with a telling name stays."""
    kept: list[int] = []
    for place in sorted(places, key=lambda i: (i not in told, i)):
        if not any(same_values(outputs[place], outputs[other]) for other in kept):
            kept.append(place)
    return sorted(kept)


def _fits(outputs: Sequence[Tensor], pair: _Pair, n: int) -> bool:
    """Tell whether the mean has a row for each image, and the spread belongs to the same."""
    mean, spread = (outputs[place] for place in pair)
    if mean.dim() < 2 or len(mean) != n:
        return False
    try:
        spread.expand_as(mean)
    except RuntimeError:
        return False
    return True


def _likely(outputs: Sequence[Tensor], pairs: list[_Pair]) -> list[_Pair]:
    """Keep pairs of one shape where there are any, and those that follow from the image."""
    alike = [(i, j) for i, j in pairs if outputs[i].shape == outputs[j].shape] or pairs
    follow = [pair for pair in alike if not any(is_constant(outputs[i]) for i in pair)]
    return follow or alike[:1]


def _decoded(
    form: AutoencoderForm, outputs: Sequence[Tensor], pairs: list[_Pair], size: int
) -> list[_Pair]:
    """Where means of several shapes are left, keep those that the decoder reads."""
    if len({outputs[i].shape for i, _ in pairs}) == 1:
        return pairs
    return [pair for pair in pairs if _is_read(form, outputs[pair[0]], size)] or pairs


def _is_read(form: AutoencoderForm, mean: Tensor, size: int) -> bool:
    """Tell whether the decoder makes images of so many numbers of a mean."""
    try:
        with torch.no_grad():
            main = form.decode(mean)[0]
    except Exception:  # the owner's code: it does not read such latents
        return False
    return len(main) == len(mean) and main[0].numel() in (size, 2 * size, LEVELS * size)


def _refuse_pairs(
    form: AutoencoderForm, outputs: Sequence[Tensor], drawn: Sequence[bool], pairs: list[_Pair]
) -> None:
    """Say why no two outputs are mean and spread."""
    what = f"Running the encoder of {form.name!r}"
    if pairs:
        mean, spread = (outputs[place] for place in pairs[0])
        raise StructureError(
            what, f"a mean of {list(mean.shape)} and a spread of {list(spread.shape)}",
            "both belong to the same latents", TELL,
        )  # fmt: skip
    rest = f"{sum(drawn)} of them drawn at random" if any(drawn) else "all of them equal"
    raise StructureError(
        what, f"{len(outputs)} outputs, {rest}", "two of them must be the mean and the spread",
        TELL,
    )  # fmt: skip
