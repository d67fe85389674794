"""Somebody else's pretrained variational autoencoder, opened from its file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.errors import UsageError
from bnnkit.io.autoencoder_decoder import DecoderReading, read_decoder
from bnnkit.io.autoencoder_encoder import EncoderReading, read_encoder, to_log_sigma
from bnnkit.io.autoencoder_forms import AutoencoderForm, OfForm, open_parts
from bnnkit.io.autoencoder_layouts import stated_by
from bnnkit.io.autoencoder_prior import open_prior, unused_prior
from bnnkit.io.autoencoder_units import BINARISED, Units
from bnnkit.spec.vae import VaeSpec

__all__ = ["Autoencoder", "open_autoencoder", "settle_autoencoder"]

_TRIED_IMAGES = 16
_TRIED_LATENTS = 64
_UNIT = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Autoencoder(OfForm):
    """An autoencoder in eval mode, with the meaning of its numbers settled.

    Args:
        form: Its module and where it comes from.
        spec: How it was named, with everything that was inferred.
        shape: Of one datum, such as `(1, 28, 28)`.
        encoder: Which of the encoder's outputs are mean and spread.
        decoder: The decoder as its likelihood wants it.
        units: What the numbers of a datum are.
        log_prior: log p(z) in nats, `[*, d]` to `[*]`.
        notes: What was picked, assumed or found, one sentence each.
        assumed: Fields of `spec` that nobody stated and nothing showed.
        is_bound: False for grey data under a Bernoulli likelihood, of which nothing is a bound.
    """

    form: AutoencoderForm
    spec: VaeSpec
    shape: tuple[int, ...]
    encoder: EncoderReading
    decoder: DecoderReading
    units: Units
    log_prior: Callable[[Tensor], Tensor]
    notes: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    is_bound: bool = True

    @property
    def latent(self) -> int:
        """Number of latents d."""
        return math.prod(self.encoder.latent_shape)

    @property
    def likelihood(self) -> str:
        """One of `spec.vae.VAE_LIKELIHOODS`."""
        return self.units.likelihood

    @property
    def standard_prior(self) -> bool:
        """Whether the prior is N(0, I)."""
        return self.spec.prior == "normal"

    def prepare(self, images: Tensor, *, start: int = 0) -> Tensor:
        """Bring images to the units of the likelihood.

        Pixels are drawn from a fixed stream in the order of the data: give the images of a split
        from its beginning, or say where they start.

        Args:
            images: `[n, c, h, w]` in [0, 1].
            start: Place of the first of them in its split.

        Returns:
            float32 `[n, D]`: zeros and ones, grey values, or levels 0 to 255.
        """
        return self.units.prepare(images, start=start)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log sigma of q(z | x), each `[n, d]`, of prepared data `[n, D]`."""
        mean, spread = self.encode_raw(x)
        return mean, to_log_sigma(str(self.spec.variance_is), spread)

    def encode_raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean, and the spread as the net gives it, each `[n, d]`."""
        inputs = self.units.to_encoder(x)
        if not self.encoder.flat:
            inputs = inputs.reshape(-1, *self.shape)
        return self.encoder(self.form.encode(inputs))

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of the likelihood, as `bayes.likelihoods` wants them.

        Args:
            z: Latents `[m, d]`.

        Returns:
            Logits `[m, D]` (`[m, D, 256]` of `categorical256`), or mean `[m, D]` and log sigma
            `[m, D]`, `[1, D]` or `[1, 1]`.
        """
        return self.decoder.parameters(z)

    def noting(self, note: str) -> Autoencoder:
        """Return it with one more note."""
        return replace(self, notes=(*self.notes, note))

    def reading_outputs_as(
        self, places: tuple[int, int], kind: str, *, because: str
    ) -> Autoencoder:
        """Return it with other outputs of the encoder as mean and spread.

        Args:
            places: Of mean and spread among the outputs.
            kind: What the spread is: one of `spec.vae.SPREADS`.
            because: A sentence for the notes, in place of what was said of the spread.
        """
        return replace(
            self,
            encoder=replace(self.encoder, places=places, rivals=()),
            spec=replace(self.spec, variance_is=kind),
            notes=(*(n for n in self.notes if "spread" not in n), because),
            assumed=tuple(name for name in self.assumed if name != "variance_is"),
        )

    def reading_spread_as(self, kind: str, *, because: str) -> Autoencoder:
        """Return it with the encoder's second output read otherwise.

        Args:
            kind: One of `spec.vae.SPREADS`.
            because: A sentence for the notes, in place of what was assumed.
        """
        return replace(
            self,
            spec=replace(self.spec, variance_is=kind),
            notes=(*(n for n in self.notes if "--variance-is" not in n), because),
            assumed=tuple(name for name in self.assumed if name != "variance_is"),
        )


def open_autoencoder(
    spec: VaeSpec,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Autoencoder:
    """Open an autoencoder and find out what its numbers mean.

    Encoder and decoder run on a few random inputs; `check_autoencoder` looks at real ones.

    Args:
        spec: What its owner named. The code of an architecture or prior in it is run.
        shape: Of one datum; None takes what file, architecture or owner state.
        seed: Seed of fresh weights, and of these inputs.
        device: `cpu` or `cuda`.

    Raises:
        ArchitectureError: The architecture is missing or does not fit.
        DataError: Outputs do not fit what was said of them.
        FileRefusedError: The file cannot be read.
        StructureError: Encoder, decoder and images do not fit each other.
        UsageError: An output is open to several readings, or an option has no meaning.
    """
    form = open_parts(spec.model, seed=seed, device=device)
    shape = shape or form.shape
    if shape is None:
        raise UsageError(
            f"Opening the autoencoder {form.name!r}", "no shape of its images",
            "they are read as channels, height and width", "Name it with --input-shape 1,28,28.",
        )  # fmt: skip
    return settle_autoencoder(form, spec, shape, seed=seed)


def settle_autoencoder(
    form: AutoencoderForm, spec: VaeSpec, shape: tuple[int, ...], *, seed: int = 0
) -> Autoencoder:
    """Find out what the numbers of an opened autoencoder mean; see `open_autoencoder`.

    Args:
        form: Its module.
        spec: What its owner named.
        shape: Of one datum.
        seed: Seed of the random inputs.

    Raises:
        DataError: Outputs do not fit what was said of them.
        StructureError: Encoder, decoder and images do not fit each other.
        UsageError: An output is open to several readings, or an option has no meaning.
    """
    told: list[str] = []
    source = torch.Generator().manual_seed(seed)
    low, high = spec.input_range or _UNIT
    images = torch.rand(_TRIED_IMAGES, *shape, generator=source) * (high - low) + low
    encoder = read_encoder(form, images.to(form.device), told)
    notes = list(form.notes)
    spec, assumed = _with_statements(form, spec, encoder.kind, notes)
    notes += told
    encoder = replace(encoder, kind=None if assumed else spec.variance_is)
    latent = math.prod(encoder.latent_shape)
    z = torch.randn(_TRIED_LATENTS, latent, generator=source).to(form.device)
    decoder = read_decoder(form, spec, z, encoder.latent_shape, shape, notes)
    spec = replace(decoder.spec, model=replace(form.model, input_shape=tuple(shape)))
    drawn = spec.likelihood == "bernoulli" and not spec.allow_grey
    binarise = spec.binarise or ("bernoulli" if drawn else "none")
    spec = replace(spec, input_range=spec.input_range or _UNIT, binarise=binarise)
    units = _units(spec, decoder, notes)
    prior = open_prior(spec.prior, latent, form.device)
    notes += unused_prior(spec.prior, form.module)
    return Autoencoder(
        form, spec, tuple(shape), encoder, decoder, units, prior, tuple(notes), assumed
    )


def _with_statements(
    form: AutoencoderForm, spec: VaeSpec, named: str | None, notes: list[str]
) -> tuple[VaeSpec, tuple[str, ...]]:
    """Fill in what the code of the architecture and the encoder's names say, and what is usual."""
    known = dict(stated_by(form.model.arch))
    if spec.likelihood not in (None, known.get("likelihood")):
        known.pop("decoder_variance_is", None)
        if spec.likelihood != "continuous-bernoulli":
            known.pop("outputs", None)
    if spec.decoder_sigma is not None:
        known.pop("decoder_variance_is", None)
    stated = {key: value for key, value in known.items() if getattr(spec, key) is None}
    filled = replace(spec, **stated)  # type: ignore[arg-type]
    if spec.variance_is is not None or (filled.variance_is is not None and not form.spread):
        return filled, ()
    if named is not None:
        notes.append(
            f"The spread of its encoder is read as {named}, by its name; --variance-is says "
            "otherwise."
        )
        return replace(filled, variance_is=named), ()
    notes.append(
        form.spread
        or "The spread of its encoder is taken as the log variance; --variance-is says otherwise."
    )
    return replace(filled, variance_is="logvar"), ("variance_is",)


def _units(spec: VaeSpec, decoder: DecoderReading, notes: list[str]) -> Units:
    """Say what the numbers of a datum are."""
    reads = spec.input_range or _UNIT
    likelihood, binarise = str(spec.likelihood), str(spec.binarise)
    if likelihood == "bernoulli":
        notes.append(BINARISED[binarise])
    if likelihood != "gaussian" or reads == _UNIT:
        return Units(likelihood, binarise, reads)
    in_unit = decoder.low >= 0 and decoder.high <= 1
    gives = _UNIT if in_unit and reads[0] < 0 else reads
    notes.append(
        f"The Gaussian likelihood is of data from {gives[0]:g} to {gives[1]:g}, in which its "
        "decoder's means lie; densities are in these units."
    )
    return Units(likelihood, binarise, reads, gives)
