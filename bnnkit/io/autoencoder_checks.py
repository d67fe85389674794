"""What must hold for an autoencoder before anything is refined: sixteen real images tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from bnnkit.errors import BnnkitError, DataError, StructureError, UsageError
from bnnkit.io.autoencoder_answers import SAME, is_constant
from bnnkit.io.autoencoder_bounds import settle_outputs
from bnnkit.io.autoencoder_encoder import to_log_sigma
from bnnkit.io.autoencoders import Autoencoder
from bnnkit.io.generator_trial import last_line
from bnnkit.spec.vae import VaeSpec

__all__ = [
    "CHECKED",
    "Checked",
    "check_autoencoder",
    "check_grey",
    "check_images",
    "check_outputs",
    "check_rows",
]

CHECKED = 16
"""Images that an autoencoder is checked on."""

_ROWS = 1e-4
"""How far an output may move with its batch, as a share of the largest."""
_GREY = 0.01
"""Share of pixels strictly between 0 and 1 from which on data are grey."""
_MOST_LOG_SIGMA = 12.0
"""Log deviations beyond this, on either side, are those of another reading."""
_ALONE = "Let it treat rows alone in eval mode, as batch norm with running statistics does."
_TUPLE = "Let encode(x) return mean and spread of q(z | x), of each image."


class Checked(Protocol):
    """What is asked of any autoencoder, whatever its latents are."""

    @property
    def name(self) -> str:
        """What its owner calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one datum."""

    @property
    def likelihood(self) -> str:
        """One of `spec.vae.VAE_LIKELIHOODS`."""

    @property
    def spec(self) -> VaeSpec:
        """How it was named, with everything that was inferred."""


def check_autoencoder(auto: Autoencoder, images: Tensor) -> Autoencoder:
    """Look at an autoencoder on real images, and refuse what would make its figures untrue.

    Args:
        auto: As it was opened.
        images: `[n, c, h, w]` in [0, 1]: sixteen different ones or so, the first of their split.

    Returns:
        It, with what was found in its notes, and `is_bound` settled.

    Raises:
        DataError: The data are grey under a Bernoulli likelihood, outside [0, 1], of another
            shape, or all equal; or outputs are not finite.
        StructureError: Encoder or decoder mix the batch, or do not follow from their inputs; or
            nothing tells which outputs of the encoder are mean and spread.
        UsageError: The spread cannot be what it was said to be.
    """
    check_images(auto, images)
    x = auto.prepare(images).to(auto.device)
    notes: list[str] = []
    grey = check_grey(auto, x, notes)
    auto = settle_outputs(auto, x)
    with torch.no_grad():
        mean, spread = auto.encode_raw(x)
        check_outputs("encoder", auto, (mean, spread))
        _check_spread(auto, mean, spread)
        check_rows("encoder", auto, auto.encode_raw, x)
        parameters = auto.decode(mean)
        check_outputs("decoder", auto, parameters)
        _check_probabilities(auto, mean)
        check_rows("decoder", auto, lambda z: _given(auto, auto.decode(z)), mean)
    if is_constant(parameters[0]):
        notes.append(
            f"Its decoder gives the same for {len(images)} different latents: it ignores them."
        )
    return replace(auto, notes=(*auto.notes, *notes), is_bound=not grey)


def check_images(auto: Checked, images: Tensor) -> None:
    """Refuse images of another shape or range, or equal ones."""
    what = f"Checking the autoencoder {auto.name!r}"
    if tuple(images.shape[1:]) != auto.shape:
        raise DataError(
            what, f"images of {list(images.shape[1:])}", f"it was opened for {list(auto.shape)}",
            "Name the shape of its images with --input-shape.",
        )  # fmt: skip
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            what, f"values from {low:.4g} to {high:.4g}",
            "images are bytes, or floats in [0, 1]; --input-range maps them to what it reads",
            "Give them so, not normalised.",
        )  # fmt: skip
    if len(images) < 2 or bool((images == images[:1]).all()):
        raise DataError(
            what, f"{len(images)} equal images", "an encoder that ignores them cannot be told",
            "Give different images.",
        )  # fmt: skip


def check_grey(auto: Checked, x: Tensor, notes: list[str]) -> bool:
    """Tell whether data are grey where the likelihood is of zeros and ones; refuse that."""
    share = float(((x > 0) & (x < 1)).float().mean())
    if auto.likelihood != "bernoulli" or share <= _GREY:
        return False
    if not auto.spec.allow_grey:
        raise DataError(
            f"Checking the autoencoder {auto.name!r} under a Bernoulli likelihood",
            f"{share:.1%} of the pixels strictly between 0 and 1",
            "that is a law of zeros and ones, and no figure would be a bound on log p(x)",
            "Use --binarise bernoulli, or --likelihood continuous-bernoulli; --allow-grey goes on "
            "without a bound.",
        )
    notes.append(
        f"{share:.1%} of the pixels are grey under a Bernoulli likelihood: no figure is a bound "
        "on log p(x)."
    )
    return True


def check_outputs(half: str, auto: Checked, outputs: tuple[Tensor, ...]) -> None:
    """Refuse outputs that are not finite."""
    bad = sum(int((~out.isfinite()).sum()) for out in outputs)
    if bad:
        raise DataError(
            f"Running the {half} of {auto.name!r}", f"{bad} outputs that are NaN or infinite",
            "nothing can be computed from them", "Check its weights and --input-range.",
        )  # fmt: skip


def _check_spread(auto: Autoencoder, mean: Tensor, spread: Tensor) -> None:
    """Refuse a spread that does not follow from the image, or is not what it was said to be."""
    what = f"Running the encoder of {auto.name!r} on {len(mean)} different images"
    if is_constant(mean):
        raise StructureError(what, "equal means", "it does not follow its input", _TUPLE)
    if is_constant(spread):
        named = _parameter_like(auto, spread[0])
        raise StructureError(
            what,
            "equal spreads" + (f": they are the parameter {named!r}" if named else ""),
            "they are not those of q(z | x), which follow from x",
            _TUPLE,
        )
    kind, low = str(auto.spec.variance_is), float(spread.min())
    what = f"Reading the spread of {auto.name!r} as {kind}"
    if kind in ("sigma", "sigma2") and low <= 0:
        raise UsageError(
            what, f"values down to {low:.4g}", "a deviation or variance is above 0",
            "Use --variance-is logvar, or --variance-is logsigma.",
        )  # fmt: skip
    if low > 0 and "variance_is" in auto.assumed:
        raise UsageError(
            what, f"values from {low:.4g} to {float(spread.max()):.4g}",
            "no latent would be sharper than the prior: they look like deviations or variances",
            "Say which: --variance-is sigma, or --variance-is sigma2.",
        )  # fmt: skip
    log_sigma = to_log_sigma(kind, spread)
    if float(log_sigma.abs().max()) > _MOST_LOG_SIGMA:
        worst = float(log_sigma.flatten()[log_sigma.abs().argmax()])
        raise UsageError(
            what, f"a standard deviation of {torch.tensor(worst).exp():.3g}",
            "no encoder is trained to that", "Say with --variance-is what it gives.",
        )  # fmt: skip


def _parameter_like(auto: Autoencoder, values: Tensor) -> str | None:
    """Return the name of a parameter or buffer with these values, one a latent or one for all."""
    for name, tensor in (*auto.module.named_parameters(), *auto.module.named_buffers()):
        flat = tensor.detach().flatten()
        fits = flat.numel() in (1, values.numel()) and flat.is_floating_point()
        if fits and bool(((flat - values).abs() <= SAME * (1 + values.abs())).all()):
            return name
    return None


def _check_probabilities(auto: Autoencoder, mean: Tensor) -> None:
    """Refuse probabilities outside [0, 1] on latents of real images."""
    if auto.spec.outputs != "probabilities":
        return
    out = auto.form.decode(mean.reshape(-1, *auto.encoder.latent_shape))[0]
    low, high = float(out.min()), float(out.max())
    if low < -SAME or high > 1 + SAME:
        raise DataError(
            f"Reading the decoder of {auto.name!r} as probabilities",
            f"outputs from {low:.4g} to {high:.4g} at the latents of real images",
            "probabilities lie in [0, 1]", "Use --outputs logits, or --likelihood gaussian.",
        )  # fmt: skip


def _given(auto: Autoencoder, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return probabilities where the decoder gives these: logits magnify rounding near 0 and 1."""
    if auto.spec.outputs != "probabilities":
        return parameters
    return tuple(torch.sigmoid(logits) for logits in parameters)


def check_rows(
    half: str, auto: Checked, run: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor
) -> None:
    """Refuse what is random, or depends on the other rows of its batch."""
    n = len(inputs)
    what = f"Running the {half} of {auto.name!r}"
    together = run(inputs)
    if (gap := _gap(together, run(inputs), n)) > _ROWS:
        raise StructureError(
            what, f"outputs that differ by {gap:.2g} (of 1) for the same inputs",
            "it draws random numbers, and a bound would be of another model at each call",
            "Let it draw nothing in eval mode.",
        )  # fmt: skip
    flipped = tuple(out.flip(0) if len(out) == n else out for out in run(inputs.flip(0)))
    try:
        rows = [run(row) for row in torch.split(inputs, 1)]
    except BnnkitError:
        raise
    except Exception as error:  # the owner's code, which may need two
        raise StructureError(
            what, last_line(error),
            "it does not run on one alone, and each datum has a bound of its own", _ALONE,
        ) from error  # fmt: skip
    alone = tuple(
        torch.cat([row[i] for row in rows]) if len(out) == n else out
        for i, out in enumerate(together)
    )
    gap = max(_gap(together, flipped, n), _gap(together, alone, n))
    if gap > _ROWS:
        raise StructureError(
            what,
            f"outputs that differ by {gap:.2g} (of 1) with the other rows of the batch",
            "each datum has a bound of its own, which may not depend on others",
            _ALONE,
        )


def _gap(first: tuple[Tensor, ...], second: tuple[Tensor, ...], n: int) -> float:
    """Return the largest difference, as a share of the largest value."""
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if len(a) == n:
            worst = max(worst, float((a - b).abs().max() / (1e-6 + a.abs().max())))
    return worst
