"""Mean and spread of an encoder, told by the bound where the order of its outputs alone is known.

An encoder was trained to maximise the evidence bound, so another reading of its outputs lowers it:
E_q[log p(x | z) + log p(z) - log q(z | x)] (Kingma and Welling, Auto-Encoding Variational Bayes,
2014, eq. 3), on a few real images with the same noise for all readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, ContinuousBernoulli, Distribution, Normal

from bnnkit.errors import StructureError
from bnnkit.io.autoencoder_encoder import to_log_sigma
from bnnkit.io.autoencoder_pairs import TELL, ordinal
from bnnkit.io.autoencoders import Autoencoder
from bnnkit.spec.vae import SPREADS

__all__ = ["LEAST_NATS", "beyond_chance", "bound_of", "settle_outputs"]

_SAMPLES = 8
_SEED = 0
_MOST_LOG_SIGMA = 12.0
_CLEAR = 3.0
"""Standard errors by which one bound must be above another."""
LEAST_NATS = 0.25
"""Nats a latent by which it must be, too: a net that was hardly trained prefers nothing. A reading
that doubles or halves a log deviation costs each latent in use about one; a net trained for
another objective (β > 1, another σ of the decoder) often leaves less than this under its own."""

_USUAL = "logvar"

_Places = tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Found:
    """The best bound of one choice of outputs.

    Args:
        kind: What the spread is then.
        bound: Nats of each datum, float64 `[n]`.
    """

    kind: str
    bound: Tensor

    @property
    def nats(self) -> float:
        """Mean over the data."""
        return float(self.bound.mean())


def settle_outputs(auto: Autoencoder, x: Tensor) -> Autoencoder:
    """Choose which outputs are mean and spread, where more than one choice is possible.

    Two outputs, mean and spread in this order, are usual: the other order must be clearly better
    to be taken. Of more than two that have the right shape, one choice must be clearly the best.

    Args:
        auto: The autoencoder.
        x: A few prepared data `[n, D]` on its device.

    Returns:
        It, with the outputs settled.

    Raises:
        StructureError: More than two outputs could be either, and the bound does not tell.
    """
    encoder = auto.encoder
    if not encoder.rivals or encoder.places is None:
        return auto
    found = _bounds(auto, x)
    ranked = sorted(found, key=lambda places: found[places].nats, reverse=True)
    usual = encoder.places
    clear = [_is_clear(auto, found[ranked[0]].bound, found[other].bound) for other in ranked[1:]]
    if len(encoder.rivals) == 1:  # the other order
        if ranked[:1] != list(encoder.rivals) or not all(clear):
            return replace(auto, encoder=replace(encoder, rivals=()))
    elif not ranked or not all(clear):
        raise _undecided(auto, found, ranked, len(x))
    best, stays = found[ranked[0]], ranked[0] == usual
    kind = str(auto.spec.variance_is) if stays else best.kind
    first, second = (ordinal(place) for place in ranked[0])
    told = "" if encoder.kind else "; --variance-is says otherwise of the latter"
    rest = f", {found[ranked[1]].nats:.1f} with the next choice" if len(ranked) > 1 else ""
    because = (
        f"The {first} output of its encoder is read as the mean and the {second} as the spread "
        f"({kind}{told}), which gives the best bound: {best.nats:.1f} nats on {len(x)} "
        f"data{rest}."
    )
    if stays:  # the reading of its spread is settled
        return replace(auto, encoder=replace(encoder, rivals=())).noting(because)
    return auto.reading_outputs_as(ranked[0], kind, because=because)


def _bounds(auto: Autoencoder, x: Tensor) -> dict[_Places, _Found]:
    """Return the best bound of each choice of outputs, of those that give one."""
    encoder = auto.encoder
    kinds = SPREADS if encoder.kind is None else (encoder.kind,)
    found = {}
    for places in (encoder.places, *encoder.rivals):
        assert places is not None  # two outputs have places
        other = replace(auto, encoder=replace(encoder, places=places))
        with torch.no_grad():
            mean, spread = other.encode_raw(x)
            bounds = {
                kind: bound
                for kind in kinds
                if (bound := bound_of(other, x, mean, to_log_sigma(kind, spread))) is not None
            }
        if bounds:
            best = max(bounds, key=lambda kind: float(bounds[kind].mean()))
            if _USUAL in bounds and not _is_clear(auto, bounds[best], bounds[_USUAL]):
                best = _USUAL
            found[places] = _Found(best, bounds[best])
    return found


def bound_of(auto: Autoencoder, x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor | None:
    """Return the bound of each datum under N(mean, diag sigma²), all under the same noise.

    Args:
        auto: The autoencoder.
        x: Prepared data `[n, D]` on its device.
        mean: `[n, d]`.
        log_sigma: `[n, d]`.

    Returns:
        Nats, float64 `[n]`; None where it is not a number.
    """
    if not bool((log_sigma.abs() < _MOST_LOG_SIGMA).all()):  # NaN included
        return None
    q: Distribution = Normal(mean, log_sigma.exp(), validate_args=False)
    source = torch.Generator().manual_seed(_SEED)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for _ in range(_SAMPLES):
        z = mean + log_sigma.exp() * torch.randn(mean.shape, generator=source).to(mean)
        log_x = _log_prob(_law(auto.likelihood, auto.decode(z)), x)
        total += (log_x + auto.log_prior(z) - _log_prob(q, z)).double()
    return total / _SAMPLES if bool(total.isfinite().all()) else None


def _log_prob(law: Distribution, values: Tensor) -> Tensor:
    """Return log-densities of rows, nats `[n]`."""
    terms: Tensor = law.log_prob(values)
    return terms.sum(-1)


def _law(likelihood: str, parameters: tuple[Tensor, ...]) -> Distribution:
    """Return p(x | z) of each number of the data."""
    if likelihood == "gaussian":
        return Normal(parameters[0], parameters[1].exp(), validate_args=False)
    logits = parameters[0]
    if likelihood == "categorical256":
        return Categorical(logits=logits, validate_args=False)
    law = ContinuousBernoulli if likelihood == "continuous-bernoulli" else Bernoulli
    return law(logits=logits, validate_args=False)


def beyond_chance(best: Tensor, other: Tensor) -> bool:
    """Tell whether one bound `[n]` is above another beyond chance."""
    gain = best - other
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > _CLEAR * error


def _is_clear(auto: Autoencoder, best: Tensor, other: Tensor) -> bool:
    """Tell whether one bound is above another, beyond chance and beyond what is small."""
    large = float((best - other).mean()) > LEAST_NATS * auto.latent
    return large and beyond_chance(best, other)


def _undecided(
    auto: Autoencoder, found: Mapping[_Places, _Found], ranked: list[_Places], n: int
) -> StructureError:
    """Say that neither order nor bound tell mean and spread."""
    choices = 1 + len(auto.encoder.rivals)
    best = " and ".join(
        f"{found[places].nats:.1f} nats with outputs {places[0] + 1} and {places[1] + 1}"
        for places in ranked[:2]
    )
    return StructureError(
        f"Reading the encoder of {auto.name!r}",
        f"outputs of which {choices} ordered pairs can be the mean and the spread",
        f"the bound on {n} data does not tell which: {best or 'none gives one'}", TELL,
    )  # fmt: skip
