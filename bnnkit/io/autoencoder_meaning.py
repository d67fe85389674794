"""What a decoder's outputs mean: which likelihood, logits or probabilities, which spread."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from bnnkit.errors import DataError, StructureError, UsageError
from bnnkit.spec.generator import shape_text
from bnnkit.spec.vae import VaeSpec

__all__ = ["LEVELS", "check_shape", "with_likelihood", "with_outputs", "with_spread"]

LEVELS = 256
"""Values of a pixel under `categorical256`."""

_EDGE = 1e-6
_TANH = 0.9
"""Outputs in [-1, 1] that go beyond this on the dark side come from a tanh."""
_SAY = (
    "Say it with --likelihood bernoulli --outputs logits, or --likelihood gaussian with "
    "--decoder-sigma."
)


def with_likelihood(
    name: str, spec: VaeSpec, outputs: tuple[Tensor, ...], size: int, notes: list[str]
) -> VaeSpec:
    """Fill in the likelihood where the outputs leave no doubt.

    Args:
        name: The autoencoder's.
        spec: What was said of it.
        outputs: Of its decoder, the main one first, each `[m, ...]`.
        size: Numbers D of one image.
        notes: Takes what was assumed.

    Raises:
        UsageError: They leave it open.
    """
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
    elif main.shape[1] == LEVELS * size:
        found = f"{LEVELS} numbers for each pixel"
        hint = "If they are logits of the levels 0 to 255: --likelihood categorical256."
    raise UsageError(
        f"Reading the decoder of {name!r}", found, "they leave open which likelihood it is", hint
    )


def check_shape(
    name: str,
    likelihood: str | None,
    outputs: tuple[Tensor, ...],
    m: int,
    shape: tuple[int, ...],
) -> None:
    """Refuse outputs that are not of the shape of an image.

    Args:
        name: The autoencoder's.
        likelihood: Under which they are read; None allows what any likelihood wants.
        outputs: Of its decoder, the main one first.
        m: Number of latents that it was given.
        shape: Of one image.

    Raises:
        StructureError: They are not.
    """
    main, size = outputs[0], math.prod(shape)
    given = main[0].numel() if main.dim() > 1 and len(main) == m else 0
    wanted = {None: (size, 2 * size, LEVELS * size), "categorical256": (LEVELS * size,)}.get(
        likelihood, (size,)
    )
    if likelihood == "gaussian" and len(outputs) == 1:
        wanted = (size, 2 * size)
    transposed = main.dim() == 4 and given == size and tuple(main.shape[1:]) != tuple(shape)
    if likelihood == "categorical256":
        transposed = main.dim() > 2 and LEVELS not in (main.shape[1], main.shape[-1])
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


def with_outputs(name: str, spec: VaeSpec, main: Tensor, notes: list[str]) -> VaeSpec:
    """Fill in whether outputs are logits or probabilities, and refuse what they cannot be.

    Args:
        name: The autoencoder's.
        spec: What was said of it.
        main: The decoder's main output `[m, ...]`.
        notes: Takes what was assumed.

    Raises:
        DataError: They are not what was said of them, or neither.
    """
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


def with_spread(
    name: str, spec: VaeSpec, outputs: tuple[Tensor, ...], size: int, notes: list[str]
) -> VaeSpec:
    """Fill in what a Gaussian decoder's second output is; without one, sigma must be stated.

    Args:
        name: The autoencoder's.
        spec: What was said of it.
        outputs: Of its decoder, the mean first, each `[m, ...]`.
        size: Numbers D of one image.
        notes: Takes what was assumed.

    Raises:
        DataError: The spread is not what was said of it.
        UsageError: It leaves open what it is, or there is none and no stated sigma.
    """
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
