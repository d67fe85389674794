"""What the numbers of a variational autoencoder mean, as options that its commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from bnnkit.spec.model import ModelSpec
from bnnkit.spec.vae import VaeSpec, parse_input_range

__all__ = ["VaeOptions"]

_PANEL = "Autoencoder"

Likelihood = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="bernoulli, continuous-bernoulli, gaussian or categorical256; read off a decoder "
        "that ends in a sigmoid.",
    ),
]
Outputs = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_PANEL,
        help="What a Bernoulli decoder gives: logits or probabilities.",
    ),
]
VarianceIs = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_PANEL,
        help="What the encoder's second output is: sigma, sigma2, logvar or logsigma.",
    ),
]
DecoderVarianceIs = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_PANEL,
        help="The same of a Gaussian decoder's second output.",
    ),
]
DecoderSigma = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        rich_help_panel=_PANEL,
        help="Standard deviation of a Gaussian decoder that gives only means.",
    ),
]
Prior = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="normal, or file.py:log_prior, log densities of latents, n rows of d.",
    ),
]
InputRange = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        rich_help_panel=_PANEL,
        help="What the encoder reads for black and white; 0,1 if absent.",
    ),
]
Binarise = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        rich_help_panel=_PANEL,
        help="bernoulli (drawn once, fixed seed), threshold or none; bernoulli for a Bernoulli "
        "likelihood if absent.",
    ),
]
AllowGrey = Annotated[
    bool,
    typer.Option(
        "--allow-grey",
        rich_help_panel=_PANEL,
        help="Let grey data meet a Bernoulli likelihood; no figure is a bound then.",
    ),
]


@dataclass(frozen=True)
class VaeOptions:
    """What the numbers of an autoencoder mean; what is absent is inferred, and said."""

    likelihood: Likelihood = None
    outputs: Outputs = None
    variance_is: VarianceIs = None
    decoder_variance_is: DecoderVarianceIs = None
    decoder_sigma: DecoderSigma = None
    prior: Prior = "normal"
    input_range: InputRange = None
    binarise: Binarise = None
    allow_grey: AllowGrey = False

    def spec(self, model: ModelSpec) -> VaeSpec:
        """Return the specification of an autoencoder.

        Args:
            model: Its file and architecture.

        Raises:
            UsageError: A value has no meaning, or means nothing beside another.
        """
        text = self.input_range
        return VaeSpec(
            model=model,
            likelihood=self.likelihood,
            outputs=self.outputs,
            variance_is=self.variance_is,
            decoder_variance_is=self.decoder_variance_is,
            decoder_sigma=self.decoder_sigma,
            prior=self.prior,
            input_range=None if text is None else parse_input_range(text),
            binarise=self.binarise,
            allow_grey=self.allow_grey,
        )
