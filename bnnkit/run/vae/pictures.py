"""What an autoencoder makes, as grids of images: samples, reconstructions, traversals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.likelihoods import likelihood_mean
from bnnkit.bayes.posteriors import Posterior
from bnnkit.io.pictures import grid_png
from bnnkit.methods.vae.bernoulli import Bernoulli
from bnnkit.run.vae.setup import VaeBench

__all__ = [
    "COLUMNS",
    "as_bytes",
    "decoded",
    "drawable",
    "grid",
    "reconstructions",
    "samples",
    "traversals",
]

COLUMNS = 10
"""Images in a row."""
_SAMPLES = 60
_REACH = 2.5
"""Traversals go so many deviations of the prior to each side; of a binary latent, from 0 to 1."""


def as_bytes(bench: VaeBench, x: Tensor) -> Tensor:
    """Return data in the units of the likelihood as images, uint8 `[n, c, h, w]`.

    Args:
        bench: The autoencoder and its data.
        x: `[n, D]`.
    """
    unit = bench.auto.units.to_images(x.float().cpu()).clamp(0, 1)
    return (unit.reshape(-1, *bench.auto.shape) * 255).round().to(torch.uint8)


@torch.no_grad()
def decoded(bench: VaeBench, z: Tensor) -> Tensor:
    """Return the mean images of latents `[n, d]`, uint8 `[n, c, h, w]`."""
    parameters = bench.model.decode(z.to(bench.auto.device))
    mean = likelihood_mean(bench.model.likelihood, parameters)
    return as_bytes(bench, mean.expand(len(z), -1))


def samples(bench: VaeBench, generator: torch.Generator) -> Tensor:
    """Return mean images of latents from N(0, I), or from the prior of a belief net."""
    z = torch.randn(_SAMPLES, bench.auto.latent, generator=generator)
    if bench.belief is not None:
        prior = bench.belief.prior_logits().cpu()
        z = Bernoulli(prior.expand_as(z), prior).sample(z[None])[0][0]
    return decoded(bench, z)


def reconstructions(bench: VaeBench, x: Tensor, posteriors: Sequence[Posterior]) -> Tensor:
    """Return rows of data, and under each row the images at the posteriors' means.

    Args:
        bench: The autoencoder and its data.
        x: Data `[n, D]`, of which the first few are shown.
        posteriors: Of these data; a row for each.
    """
    rows = [as_bytes(bench, x[:COLUMNS])]
    rows += [decoded(bench, q.rows(slice(0, COLUMNS)).centre()) for q in posteriors]
    return torch.cat([_filled(row) for row in rows])


def _filled(row: Tensor) -> Tensor:
    """Return a row of fewer images with black ones after them."""
    return torch.cat([row, row.new_zeros(COLUMNS - len(row), *row.shape[1:])])


def traversals(bench: VaeBench, centre: Tensor, latents: Sequence[int]) -> Tensor:
    """Return a row for each latent, which goes through the prior while the others stay.

    A decoder of binary latents is given means on the way from 0 to 1.

    Args:
        bench: The autoencoder and its data.
        centre: Where the others stay `[d]`.
        latents: Which of them.
    """
    ends = (-_REACH, _REACH) if bench.belief is None else (0.0, 1.0)
    values = torch.linspace(*ends, COLUMNS)
    z = centre.cpu().repeat(len(latents), COLUMNS, 1)
    for row, latent in enumerate(latents):
        z[row, :, latent] = values
    return decoded(bench, z.flatten(0, 1))


def drawable(images: Tensor) -> Tensor:
    """Return images with one or three channels: the first of any other number."""
    return images if images.shape[1] in (1, 3) else images[:, :1]


def grid(name: str, images: Tensor) -> dict[str, Any]:
    """Return a grid as a report holds it: its name, and a PNG in base64."""
    return {"name": name, "png": grid_png(drawable(images), columns=COLUMNS)}
