"""A net with binary latents, opened from its file: recognition net, decoder and learned prior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, StructureError, UsageError
from bnnkit.io.autoencoder_answers import is_constant
from bnnkit.io.autoencoder_checks import (
    check_grey,
    check_images,
    check_outputs,
    check_rows,
)
from bnnkit.io.autoencoder_forms import AutoencoderForm, OfForm
from bnnkit.io.autoencoder_units import BINARISED, Units
from bnnkit.io.generator_trial import last_line
from bnnkit.spec.vae import VaeSpec

__all__ = ["BeliefNet", "check_belief_net", "is_belief_net", "settle_belief_net"]

_TRIED = 4
_BINARY = "The latents of a belief net are zeros and ones"


@dataclass(frozen=True, eq=False)
class BeliefNet(OfForm):
    """A belief net in eval mode: q(h | x), p(h) and p(x | h) are Bernoulli, told by logits.

    Args:
        form: Its module and where it comes from.
        spec: How it was named, with everything that was inferred.
        shape: Of one datum, such as `(1, 28, 28)`.
        latent: Number of latents L.
        units: What the numbers of a datum are.
        notes: What was picked, assumed or found, one sentence each.
        is_bound: False for grey data, of which nothing is a bound.
    """

    form: AutoencoderForm
    spec: VaeSpec
    shape: tuple[int, ...]
    latent: int
    units: Units
    notes: tuple[str, ...]
    is_bound: bool = True

    @property
    def likelihood(self) -> str:
        """That of zeros and ones."""
        return self.units.likelihood

    def prepare(self, images: Tensor, *, start: int = 0) -> Tensor:
        """Bring images in [0, 1] to the units of the likelihood; see `Autoencoder.prepare`."""
        return self.units.prepare(images, start=start)

    def encode(self, x: Tensor) -> Tensor:
        """Return the logits of q(h | x), `[n, L]`, of prepared data `[n, D]`."""
        (logits,) = self.form.encode(self.units.to_encoder(x))
        return logits

    def decode(self, h: Tensor) -> Tensor:
        """Return the logits of p(x | h), `[m, D]`, of latents `[m, L]`; means pass as well."""
        (logits,) = self.form.decode(h)
        return logits

    def prior_logits(self) -> Tensor:
        """Return the logits of p(h), `[L]`."""
        prior: Tensor = self.form.module.prior_logits()  # type: ignore[operator]
        return prior


def is_belief_net(form: AutoencoderForm) -> bool:
    """Tell whether a module has binary latents: it gives the logits of their prior."""
    return callable(getattr(form.module, "prior_logits", None))


def settle_belief_net(form: AutoencoderForm, spec: VaeSpec, shape: tuple[int, ...]) -> BeliefNet:
    """Find out what a belief net is of, and try it on random pixels.

    Args:
        form: Its module.
        spec: What its owner named.
        shape: Of one datum.

    Raises:
        StructureError: Its parts do not fit each other.
        UsageError: It does not read such data, or an option is of continuous latents.
    """
    _refuse_unused(spec)
    drawn = "none" if spec.allow_grey else "bernoulli"
    spec = replace(
        spec, model=replace(form.model, input_shape=tuple(shape)), likelihood="bernoulli",
        outputs="logits", input_range=spec.input_range or (0.0, 1.0),
        binarise=spec.binarise or drawn,
    )  # fmt: skip
    units = Units("bernoulli", str(spec.binarise), spec.input_range or (0.0, 1.0))
    latent = _try_net(form, math.prod(shape))
    notes = (*form.notes, f"{_BINARY}: {latent} of them.", BINARISED[str(spec.binarise)])
    return BeliefNet(form, spec, tuple(shape), latent, units, notes)


def _refuse_unused(spec: VaeSpec) -> None:
    """Refuse what is said of continuous latents, or of another likelihood."""
    why = f"{_BINARY}, and so are its data; all of its outputs are logits"
    for option, value, fits in (
        ("--likelihood", spec.likelihood, (None, "bernoulli")),
        ("--outputs", spec.outputs, (None, "logits")),
        ("--variance-is", spec.variance_is, (None,)),
        ("--decoder-variance-is", spec.decoder_variance_is, (None,)),
        ("--decoder-sigma", spec.decoder_sigma, (None,)),
    ):
        if value not in fits:
            raise UsageError(f"Opening a belief net with {option}", repr(value), why, _LEAVE)
    if spec.prior != "normal":
        raise UsageError(
            "Opening a belief net with --prior", repr(spec.prior),
            "its prior is its own prior_logits()", _LEAVE,
        )  # fmt: skip


_LEAVE = "Leave the option out."


def _try_net(form: AutoencoderForm, width: int) -> int:
    """Run all parts on random pixels, and return the number of latents."""
    source = torch.Generator().manual_seed(0)
    x = (torch.rand(_TRIED, width, generator=source) < 0.5).float().to(form.device)
    what = f"Running the belief net {form.name!r} on {width} pixels"
    with torch.no_grad():
        try:
            logits = form.encode(x)
            prior = form.module.prior_logits()  # type: ignore[operator]
            shapes = [tuple(out.shape) for out in (*logits, prior)]
            latent = int(shapes[0][-1])
            if len(logits) != 1 or shapes != [(_TRIED, latent), (latent,)]:
                raise StructureError(
                    what, f"outputs of {[list(shape) for shape in shapes]}",
                    "encode(x) must give one logit of each latent, and prior_logits() as many",
                    "Let encode(x) return logits [n, latents].",
                )  # fmt: skip
            pixels = form.decode(torch.sigmoid(logits[0]))
        except (BnnkitError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the owner's code
            raise UsageError(
                what, last_line(error), "it does not read them",
                "Name the shape of its images with --input-shape, such as --input-shape 1,28,28.",
            ) from error  # fmt: skip
    if [tuple(out.shape) for out in pixels] != [(_TRIED, width)]:
        raise StructureError(
            what, f"{[list(out.shape) for out in pixels]} from its decoder",
            "it must give one logit of each pixel", "Let decode(h) return logits [m, pixels].",
        )  # fmt: skip
    return latent


def check_belief_net(net: BeliefNet, images: Tensor) -> BeliefNet:
    """Look at a belief net on real images, and refuse what would make its figures untrue.

    Args:
        net: As it was opened.
        images: `[n, c, h, w]` in [0, 1]: sixteen different ones or so, the first of their split.

    Returns:
        It, with what was found in its notes, and `is_bound` settled.

    Raises:
        DataError: The data are grey, outside [0, 1], of another shape, or all equal; or outputs
            are not finite.
        StructureError: Recognition net or decoder mix the batch, draw random numbers, or do not
            follow from their inputs.
    """
    check_images(net, images)
    x = net.prepare(images).to(net.device)
    notes: list[str] = []
    grey = check_grey(net, x, notes)
    with torch.no_grad():
        logits = net.encode(x)
        check_outputs("encoder", net, (logits, net.prior_logits()))
        if is_constant(logits):
            raise StructureError(
                f"Running the encoder of {net.name!r} on {len(x)} different images",
                "equal logits", "it does not follow its input",
                "Let encode(x) return the logits of q(h | x), of each image.",
            )  # fmt: skip
        check_rows("encoder", net, lambda rows: (net.encode(rows),), x)
        mean = torch.sigmoid(logits)
        pixels = net.decode(mean)
        check_outputs("decoder", net, (pixels,))
        check_rows("decoder", net, lambda rows: (net.decode(rows),), mean)
    if is_constant(pixels):
        notes.append(
            f"Its decoder gives the same for {len(x)} different latents: it ignores them."
        )
    return replace(net, notes=(*net.notes, *notes), is_bound=not grey)
