"""How a decoder answers: what its outputs are, as parameters of a likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, DataError, StructureError, UsageError
from bnnkit.io.autoencoder_encoder import to_log_sigma
from bnnkit.io.autoencoder_forms import AutoencoderForm
from bnnkit.io.autoencoder_logits import clamped_logits, without_last_sigmoid
from bnnkit.io.generator_trial import last_line
from bnnkit.spec.generator import shape_text
from bnnkit.spec.vae import VaeSpec

__all__ = ["DecoderReading", "read_decoder"]

_EDGE = 1e-6
_LEVELS = 256
_TANH = 0.9
"""Outputs in [-1, 1] that go beyond this on the dark side come from a tanh."""
_PIXELWISE = ("bernoulli", "continuous-bernoulli")
_SAY = (
    "Say it with --likelihood bernoulli --outputs logits, or --likelihood gaussian with "
    "--decoder-sigma."
)


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

    outputs = _first_outputs(form.name, raw, z)
    main = outputs[0]
    _check_shape(form.name, spec.likelihood, outputs, len(z), shape)
    spec = _with_likelihood(form.name, spec, outputs, math.prod(shape), notes)
    _check_shape(form.name, spec.likelihood, outputs, len(z), shape)
    if spec.likelihood in _PIXELWISE:
        spec = _with_outputs(form.name, spec, main, notes)
        parameters = _pixelwise(raw, spec, z, notes)
    elif spec.likelihood == "gaussian":
        spec = _with_spread(form.name, spec, outputs, math.prod(shape), notes)
        parameters = _gaussian(raw, spec, math.prod(shape))
        if main.flatten(1).shape[1] == 2 * math.prod(shape):
            main = main.chunk(2, dim=1)[0]
    else:
        parameters = _categorical(raw, math.prod(shape))
    return DecoderReading(parameters, spec, float(main.min()), float(main.max()))


def _first_outputs(
    name: str, raw: Callable[[Tensor], tuple[Tensor, ...]], z: Tensor
) -> tuple[Tensor, ...]:
    """Run it; both sides are named where they do not meet."""
    what = f"Running the decoder of {name!r}"
    try:
        with torch.no_grad():
            outputs = raw(z)
    except (BnnkitError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the owner's code
        raise StructureError(
            what, last_line(error),
            f"the encoder gives latents of {z.shape[1]} numbers, which the decoder does not read",
            "Give the encoder and the decoder of one model; an encoder with one output must give "
            "mean and spread as its halves.",
        ) from error  # fmt: skip
    bad = sum(int((~out.isfinite()).sum()) for out in outputs)
    if bad:
        raise DataError(
            what, f"{bad} outputs that are NaN or infinite", "they are no parameters of a law",
            "Check its weights.",
        )  # fmt: skip
    return tuple(out.detach() for out in outputs)


def _with_likelihood(
    name: str, spec: VaeSpec, outputs: tuple[Tensor, ...], size: int, notes: list[str]
) -> VaeSpec:
    """Fill in the likelihood where the outputs leave no doubt."""
    if spec.likelihood is not None:
        return spec
    if spec.decoder_sigma is not None or spec.decoder_variance_is is not None:
        notes.append("A Gaussian likelihood, since its deviation was stated.")
        return replace(spec, likelihood="gaussian")
    main = outputs[0].flatten(1)
    low, high = float(main.min()), float(main.max())
    alone = len(outputs) == 1 and main.shape[1] == size
    if alone and spec.outputs is not None:
        notes.append(f"A Bernoulli likelihood, since its outputs were said to be {spec.outputs}.")
        return replace(spec, likelihood="bernoulli")
    if alone and low >= -_EDGE and high <= 1 + _EDGE:
        notes.append(
            f"Its decoder's outputs go from {low:.3g} to {high:.3g}: read as Bernoulli "
            "probabilities (--likelihood says otherwise)."
        )
        return replace(spec, likelihood="bernoulli", outputs="probabilities")
    found, hint = f"outputs from {low:.4g} to {high:.4g}", _SAY
    if len(outputs) > 1 or main.shape[1] == 2 * size:
        many = f"{len(outputs)} outputs" if len(outputs) > 1 else "one output"
        found = f"{many} of {main.shape[1]} numbers for an image of {size}"
        hint = "If they are mean and spread: --likelihood gaussian --decoder-variance-is logvar."
    elif main.shape[1] == _LEVELS * size:
        found = f"{_LEVELS} numbers for each pixel"
        hint = "If they are logits of the levels 0 to 255: --likelihood categorical256."
    raise UsageError(
        f"Reading the decoder of {name!r}", found, "they leave open which likelihood it is", hint
    )


def _check_shape(
    name: str,
    likelihood: str | None,
    outputs: tuple[Tensor, ...],
    m: int,
    shape: tuple[int, ...],
) -> None:
    """Refuse outputs that are not of the shape of an image, under any likelihood or the known."""
    main, size = outputs[0], math.prod(shape)
    given = main[0].numel() if main.dim() > 1 and len(main) == m else 0
    wanted = {None: (size, 2 * size, _LEVELS * size), "categorical256": (_LEVELS * size,)}.get(
        likelihood, (size,)
    )
    if likelihood == "gaussian" and len(outputs) == 1:
        wanted = (size, 2 * size)
    transposed = main.dim() == 4 and given == size and tuple(main.shape[1:]) != tuple(shape)
    if likelihood == "categorical256":
        transposed = main.dim() > 2 and _LEVELS not in (main.shape[1], main.shape[-1])
    if given in wanted and not transposed:
        return
    raise StructureError(
        f"Reading the decoder of {name!r}"
        + ("" if likelihood is None else f" with --likelihood {likelihood}"),
        f"outputs of {list(main.shape)} for {m} latents",
        f"an image of {shape_text(shape)} needs {wanted[0]} numbers"
        + (" in that order" if transposed else ""),
        "Name the shape of its images with --input-shape.",
    )


def _with_outputs(name: str, spec: VaeSpec, main: Tensor, notes: list[str]) -> VaeSpec:
    """Fill in whether outputs are logits or probabilities, and refuse what they cannot be."""
    low, high = float(main.min()), float(main.max())
    inside = low >= -_EDGE and high <= 1 + _EDGE
    what, found = f"Reading the decoder of {name!r}", f"outputs from {low:.4g} to {high:.4g}"
    if not inside and -1 - _EDGE <= low < -_TANH and high <= 1 + _EDGE:
        raise DataError(
            what, found, "a tanh gives these, and they are neither probabilities nor logits",
            "Use --likelihood gaussian --input-range=-1,1 with --decoder-sigma.",
        )  # fmt: skip
    if spec.outputs is None:
        kind = "probabilities" if inside else "logits"
        notes.append(f"Its decoder's {found} are read as {kind} (--outputs says otherwise).")
        return replace(spec, outputs=kind)
    if spec.outputs == "probabilities" and not inside:
        raise DataError(
            f"{what} as probabilities", found, "probabilities lie in [0, 1]",
            "Use --outputs logits if a sigmoid belongs after it.",
        )  # fmt: skip
    if spec.outputs == "logits" and inside:
        raise DataError(
            f"{what} as logits", found, "no pixel would be darker than half grey",
            "Use --outputs probabilities if it ends in a sigmoid.",
        )  # fmt: skip
    return spec


def _pixelwise(
    raw: Callable[[Tensor], tuple[Tensor, ...]], spec: VaeSpec, z: Tensor, notes: list[str]
) -> Callable[[Tensor], tuple[Tensor, ...]]:
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


def _with_spread(
    name: str, spec: VaeSpec, outputs: tuple[Tensor, ...], size: int, notes: list[str]
) -> VaeSpec:
    """Fill in what a Gaussian decoder's second output is; without one, sigma must be stated."""
    main = outputs[0]
    halves = len(outputs) == 1 and main[0].numel() == 2 * size
    what = f"Reading the decoder of {name!r} with --likelihood gaussian"
    if len(outputs) == 1 and not halves:
        if spec.decoder_sigma is None:
            raise UsageError(
                what, "one output", "it is the mean; the standard deviation is not known",
                "Say it with --decoder-sigma, in the units of the data: --decoder-sigma 0.1.",
            )  # fmt: skip
        return spec
    if spec.decoder_sigma is not None:
        notes.append("Its decoder's second output is not used: --decoder-sigma was stated.")
        return spec
    spread = main.chunk(2, dim=1)[1] if halves else outputs[1]
    positive = float(spread.min()) > 0
    kind = spec.decoder_variance_is
    if kind in ("sigma", "sigma2") and not positive:
        raise DataError(
            f"{what} as {kind}", f"a spread of {float(spread.min()):.4g}",
            "a deviation is above 0", "Use --decoder-variance-is logvar or logsigma.",
        )  # fmt: skip
    if kind is None and positive:
        raise UsageError(
            what, f"spreads from {float(spread.min()):.4g} to {float(spread.max()):.4g}",
            "they leave open whether they are deviations or variances",
            "Say it with --decoder-variance-is sigma, sigma2, logvar or logsigma.",
        )  # fmt: skip
    if kind is None:
        notes.append(
            "Its decoder's second output is taken as the log variance; --decoder-variance-is "
            "says otherwise."
        )
        spec = replace(spec, decoder_variance_is="logvar")
    return spec


def _gaussian(
    raw: Callable[[Tensor], tuple[Tensor, ...]], spec: VaeSpec, size: int
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return mean and log sigma; a fixed or shared one keeps its one row."""
    sigma = spec.decoder_sigma

    def parameters(z: Tensor) -> tuple[Tensor, ...]:
        outputs = raw(z)
        mean, spread = outputs[0], outputs[-1]
        if math.prod(mean.shape[1:]) == 2 * size:
            mean, spread = mean.chunk(2, dim=1)
        if sigma is not None:
            return mean.flatten(1), mean.new_full((1, 1), math.log(sigma))
        one_row = spread.dim() < 2 or spread.shape[0] != mean.shape[0]
        spread = spread.reshape(1, -1) if one_row else spread.flatten(1)
        return mean.flatten(1), to_log_sigma(str(spec.decoder_variance_is), spread)

    return parameters


def _categorical(
    raw: Callable[[Tensor], tuple[Tensor, ...]], size: int
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return logits `[m, D, 256]`, whether the levels come last or first."""

    def parameters(z: Tensor) -> tuple[Tensor, ...]:
        main = raw(z)[0]
        if main.shape[-1] != _LEVELS and main.shape[1] == _LEVELS:
            main = main.movedim(1, -1)
        return (main.reshape(-1, size, _LEVELS),)

    return parameters
