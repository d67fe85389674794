"""What an encoder's second output is: trained under the right reading, it makes the bound best."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.io.autoencoder_bounds import LEAST_NATS, beyond_chance, bound_of
from bnnkit.io.autoencoder_encoder import to_log_sigma
from bnnkit.io.autoencoders import Autoencoder
from bnnkit.spec.vae import SPREADS

__all__ = ["bounds_of_readings", "settle_spread"]


def bounds_of_readings(auto: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    """Return the evidence bound of each datum under each reading that is possible.

    An encoder was trained to maximise the bound, so a reading that scales its deviations lowers
    it. All readings meet the same noise.

    Args:
        auto: The autoencoder.
        x: Prepared data `[n, D]`.

    Returns:
        By reading, float64 `[n]`, in nats.
    """
    x = x.to(auto.device)
    out: dict[str, Tensor] = {}
    with torch.no_grad():
        mean, spread = auto.encode_raw(x)
        for kind in SPREADS:
            bound = bound_of(auto, x, mean, to_log_sigma(kind, spread))
            if bound is not None:
                out[kind] = bound.cpu()
    return out


def settle_spread(auto: Autoencoder, x: Tensor) -> Autoencoder:
    """Choose the reading of the encoder's spread, where nobody stated it.

    Args:
        auto: The autoencoder.
        x: A few prepared data `[n, D]`.

    Returns:
        It, read otherwise where another reading's bound is clearly higher; a stated reading is
        kept, with a note where that is so.
    """
    bounds = bounds_of_readings(auto, x)
    if not bounds or auto.spec.variance_is is None:
        return auto
    best = max(bounds, key=lambda kind: float(bounds[kind].mean()))
    used = auto.spec.variance_is
    if best == used or (used in bounds and not beyond_chance(bounds[best], bounds[used])):
        return auto
    gain, small = "", False
    if used in bounds:
        above = float((bounds[best] - bounds[used]).mean())
        gain, small = f", {above:.1f} nats above {used}", above < LEAST_NATS * auto.latent
    ground = f"{float(bounds[best].mean()):.1f} nats on {len(x)} data{gain}"
    if small or "variance_is" not in auto.assumed:
        return auto.noting(
            f"Read as {best}, the spread of its encoder would give a better bound: {ground}."
        )
    return auto.reading_spread_as(
        best,
        because=f"The spread of its encoder is read as {best}, which gives the best bound: "
        f"{ground}; --variance-is says otherwise.",
    )
