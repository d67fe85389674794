"""How a variational autoencoder is named: its file, and what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.model import ModelSpec

__all__ = ["BINARISE", "OUTPUTS", "SPREADS", "VAE_LIKELIHOODS", "VaeSpec", "parse_input_range"]

VAE_LIKELIHOODS = ("bernoulli", "continuous-bernoulli", "gaussian", "categorical256")
"""Distributions of the data that a decoder may parametrise; see `bayes.likelihoods`."""

SPREADS = ("sigma", "sigma2", "logvar", "logsigma")
"""What an encoder's, or a Gaussian decoder's, second output is."""

OUTPUTS = ("logits", "probabilities")
"""What a Bernoulli decoder's output is."""

BINARISE = ("bernoulli", "threshold", "none")
"""How grey pixels become zeros and ones: drawn once with a fixed seed, cut at a half, or not."""


@dataclass(frozen=True)
class VaeSpec:
    """A variational autoencoder as its owner names it. None is inferred, and said.

    Args:
        model: File and architecture.
        likelihood: One of `VAE_LIKELIHOODS`.
        outputs: One of `OUTPUTS`, of a Bernoulli decoder.
        variance_is: One of `SPREADS`, of the encoder's second output.
        decoder_variance_is: Likewise, of a Gaussian decoder with two outputs.
        decoder_sigma: Fixed standard deviation of a Gaussian decoder with one output.
        prior: `normal`, or `path/to/file.py:log_prior` for a function of latents `[n, d]`.
        input_range: Least and largest value that the encoder reads, for data in [0, 1].
        binarise: One of `BINARISE`; None decides by the likelihood.
        allow_grey: Whether grey data may meet a Bernoulli likelihood; nothing is a bound then.

    Raises:
        UsageError: A value has no meaning, or means nothing beside another.
    """

    model: ModelSpec
    likelihood: str | None = None
    outputs: str | None = None
    variance_is: str | None = None
    decoder_variance_is: str | None = None
    decoder_sigma: float | None = None
    prior: str = "normal"
    input_range: tuple[float, float] | None = None
    binarise: str | None = None
    allow_grey: bool = False

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--likelihood", self.likelihood, VAE_LIKELIHOODS),
            ("--outputs", self.outputs, OUTPUTS),
            ("--variance-is", self.variance_is, SPREADS),
            ("--decoder-variance-is", self.decoder_variance_is, SPREADS),
            ("--binarise", self.binarise, BINARISE),
        ):
            if value is not None and value not in known:
                raise UsageError(f"Reading {option}", repr(value), "", did_you_mean(value, known))
        if self.decoder_sigma is not None and not 0 < self.decoder_sigma < math.inf:
            raise UsageError(
                "Reading --decoder-sigma", f"{self.decoder_sigma:g}",
                "a standard deviation is a number above 0", "Use --decoder-sigma 0.1.",
            )  # fmt: skip
        if self.input_range is not None:
            _check_range(*self.input_range)
        _check_prior(self.prior)
        self._check_together()

    def _check_together(self) -> None:
        """Refuse what means nothing beside the likelihood."""
        bernoulli = self.likelihood in ("bernoulli", "continuous-bernoulli")
        given = {
            "--outputs": (self.outputs, bernoulli),
            "--decoder-sigma": (self.decoder_sigma, self.likelihood == "gaussian"),
            "--decoder-variance-is": (self.decoder_variance_is, self.likelihood == "gaussian"),
        }
        for option, (value, fits) in given.items():
            if self.likelihood is not None and value is not None and not fits:
                raise UsageError(
                    f"Using {option} {value}", f"--likelihood {self.likelihood}",
                    "it means nothing there", "Leave one of them out.",
                )  # fmt: skip
        if self.decoder_sigma is not None and self.decoder_variance_is is not None:
            raise UsageError(
                f"Using --decoder-sigma {self.decoder_sigma:g}",
                f"--decoder-variance-is {self.decoder_variance_is}",
                "a fixed deviation is not read off the decoder", "Leave one of them out.",
            )  # fmt: skip
        drawn = self.binarise in ("bernoulli", "threshold")
        if drawn and self.likelihood not in (None, "bernoulli"):
            raise UsageError(
                f"Using --binarise {self.binarise}", f"--likelihood {self.likelihood}",
                "that likelihood is one of grey values", "Use --binarise none.",
            )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON-safe dictionaries."""
        return {**asdict(self), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> VaeSpec:
        """Read what `to_dict` wrote, after JSON as well.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is of another kind.
            UsageError: The values mean nothing.
            ValueError: Likewise.
        """
        sigma, reads = body["decoder_sigma"], body["input_range"]
        return cls(
            model=ModelSpec.from_dict(body["model"]),
            likelihood=_word(body["likelihood"]),
            outputs=_word(body["outputs"]),
            variance_is=_word(body["variance_is"]),
            decoder_variance_is=_word(body["decoder_variance_is"]),
            decoder_sigma=None if sigma is None else float(sigma),
            prior=str(body["prior"]),
            input_range=None if reads is None else _pair(reads),
            binarise=_word(body["binarise"]),
            allow_grey=bool(body["allow_grey"]),
        )


def parse_input_range(text: str) -> tuple[float, float]:
    """Read `--input-range`: what the encoder reads for black and for white.

    Raises:
        UsageError: It is not two numbers, the smaller one first.

    >>> parse_input_range("-1,1")
    (-1.0, 1.0)
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            "Reading --input-range", repr(text), "it is two numbers", _RANGE_HINT
        ) from error
    _check_range(low, high)
    return low, high


_RANGE_HINT = "Use --input-range=-1,1, 0,1 or 0,255."


def _check_range(low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise UsageError(
            "Reading --input-range", f"{low:g},{high:g}",
            "the first number is what black is read as, the second, larger, white", _RANGE_HINT,
        )  # fmt: skip


def _check_prior(prior: str) -> None:
    """Refuse what is neither the standard normal nor the place of a function."""
    place, _, item = prior.rpartition(":")
    if prior != "normal" and not (place and item.isidentifier()):
        raise UsageError(
            "Reading --prior", repr(prior),
            "it is 'normal', or the place of a function of latents [n, d]",
            "Use --prior normal, or --prior path/to/file.py:log_prior.",
        )  # fmt: skip


def _word(value: object) -> str | None:
    return None if value is None else str(value)


def _pair(values: Sequence[Any]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
