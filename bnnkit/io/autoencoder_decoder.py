"""How a decoder answers: its outputs as the parameters of a likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, DataError, StructureError
from bnnkit.io.autoencoder_answers import is_possible
from bnnkit.io.autoencoder_encoder import to_log_sigma
from bnnkit.io.autoencoder_faults import refuse_conditions, refuse_fault
from bnnkit.io.autoencoder_forms import AutoencoderForm, quoted
from bnnkit.io.autoencoder_logits import clamped_logits, without_last_sigmoid
from bnnkit.io.autoencoder_meaning import (
    LEVELS,
    check_shape,
    with_likelihood,
    with_outputs,
    with_spread,
)
from bnnkit.io.generator_trial import last_line
from bnnkit.spec.vae import VaeSpec

__all__ = ["DecoderReading", "read_decoder"]

_Decode = Callable[[Tensor], tuple[Tensor, ...]]
_PIXELWISE = ("bernoulli", "continuous-bernoulli")


@dataclass(frozen=True, eq=False)
class DecoderReading:
    """A decoder as its likelihood wants it.

    Args:
        parameters: Latents `[m, d]` to the parameters; see `bayes.likelihoods`.
        spec: What was said of it, with what was inferred.
        low: Least main output that was seen.
        high: Largest.
    """

    parameters: Callable[[Tensor], tuple[Tensor, ...]]
    spec: VaeSpec
    low: float
    high: float


def read_decoder(
    form: AutoencoderForm,
    spec: VaeSpec,
    z: Tensor,
    latent_shape: tuple[int, ...],
    shape: tuple[int, ...],
    notes: list[str],
) -> DecoderReading:
    """Run a decoder for the first time.

    Args:
        form: The autoencoder.
        spec: What its owner, or its architecture, said of it.
        z: Latents `[m, d]` of the prior, as many as tell a range.
        latent_shape: Shape of one latent as the decoder reads it.
        shape: Of one image.
        notes: Takes what was assumed.

    Returns:
        The decoder with its likelihood.

    Raises:
        DataError: Its outputs are not finite, or do not fit what was said of them.
        StructureError: They do not fit the shape of an image.
        UsageError: It does not read such latents, or they leave open what they mean.
    """

    def raw(z: Tensor) -> tuple[Tensor, ...]:
        return form.decode(z.reshape(-1, *latent_shape))

    outputs = _first_outputs(form, raw, z)
    main = outputs[0]
    check_shape(form.name, spec.likelihood, outputs, len(z), shape)
    spec = with_likelihood(form.name, spec, outputs, math.prod(shape), notes)
    check_shape(form.name, spec.likelihood, outputs, len(z), shape)
    if spec.likelihood in _PIXELWISE:
        spec = with_outputs(form.name, spec, main, notes)
        parameters = _pixelwise(raw, spec, z, notes)
    elif spec.likelihood == "gaussian":
        spec = _with_named_spread(form, spec, z.reshape(-1, *latent_shape), notes)
        spec = with_spread(form.name, spec, outputs, math.prod(shape), notes)
        parameters = _gaussian(raw, spec, math.prod(shape))
        if main.flatten(1).shape[1] == 2 * math.prod(shape):
            main = main.chunk(2, dim=1)[0]
    else:
        parameters = _categorical(raw, math.prod(shape))
    return DecoderReading(parameters, spec, float(main.min()), float(main.max()))


def _first_outputs(form: AutoencoderForm, raw: _Decode, z: Tensor) -> tuple[Tensor, ...]:
    """Run it; both sides are named where they do not meet."""
    what = f"Running the decoder of {form.name!r}"
    refuse_conditions(form, "decode", form.decoder)
    try:
        with torch.no_grad():
            outputs = raw(z)
    except (BnnkitError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the owner's code
        refuse_fault(form, what, error)
        hint = (
            "Give the encoder and the decoder of one model; an encoder with one output must give "
            "mean and spread as its halves."
        )
        if form.beside:
            hint = (
                f"Its layers {quoted(form.beside)} are run by neither half: name a factory with "
                "--arch file.py:factory whose methods encode(x) and decode(z) run them."
            )
        raise StructureError(
            what, last_line(error),
            f"the encoder gives latents of {z.shape[1]} numbers, which the decoder does not read",
            hint,
        ) from error  # fmt: skip
    bad = sum(int((~out.isfinite()).sum()) for out in outputs)
    if bad:
        raise DataError(
            what, f"{bad} outputs that are NaN or infinite", "they are no parameters of a law",
            "Check its weights.",
        )  # fmt: skip
    return tuple(out.detach() for out in outputs)


def _with_named_spread(
    form: AutoencoderForm, spec: VaeSpec, z: Tensor, notes: list[str]
) -> VaeSpec:
    """Read a Gaussian decoder's spread by its name, where it has one that its values allow."""
    if spec.decoder_variance_is is not None or spec.decoder_sigma is not None:
        return spec
    with torch.no_grad():
        answer = form.decode_named(z)
    kind = answer.roles[1] if len(answer.roles) > 1 else None
    if kind is None or kind == "mean" or not is_possible(kind, answer.tensors[1]):
        return spec
    notes.append(
        f"Its decoder's {answer.names[1]!r} is read as {kind}, by its name; "
        "--decoder-variance-is says otherwise."
    )
    return replace(spec, decoder_variance_is=kind)


def _pixelwise(raw: _Decode, spec: VaeSpec, z: Tensor, notes: list[str]) -> _Decode:
    """Return logits, by leaving out the last sigmoid where that can be done."""

    def main(z: Tensor) -> Tensor:
        return raw(z)[0].flatten(1)

    if spec.outputs == "logits":
        return lambda z: (main(z),)
    peeled = without_last_sigmoid(main, z)
    if peeled is not None:
        return lambda z: (peeled(z),)
    notes.append(
        "Its decoder's last sigmoid cannot be left out: probabilities are kept 1.2e-7 from 0 "
        "and 1."
    )
    return lambda z: (clamped_logits(main(z)),)


def _gaussian(raw: _Decode, spec: VaeSpec, size: int) -> _Decode:
    """Return mean and log sigma; a fixed or shared one keeps its one row."""
    sigma = spec.decoder_sigma

    def parameters(z: Tensor) -> tuple[Tensor, ...]:
        outputs = raw(z)
        mean, spread = outputs[0], outputs[min(1, len(outputs) - 1)]
        if math.prod(mean.shape[1:]) == 2 * size:
            mean, spread = mean.chunk(2, dim=1)
        if sigma is not None:
            return mean.flatten(1), mean.new_full((1, 1), math.log(sigma))
        one_row = spread.dim() < 2 or spread.shape[0] != mean.shape[0]
        spread = spread.reshape(1, -1) if one_row else spread.flatten(1)
        return mean.flatten(1), to_log_sigma(str(spec.decoder_variance_is), spread)

    return parameters


def _categorical(raw: _Decode, size: int) -> _Decode:
    """Return logits `[m, D, 256]`, whether the levels come last or first."""

    def parameters(z: Tensor) -> tuple[Tensor, ...]:
        main = raw(z)[0]
        if main.shape[-1] != LEVELS and main.shape[1] == LEVELS:
            main = main.movedim(1, -1)
        return (main.reshape(-1, size, LEVELS),)

    return parameters
