"""Grids of what a trained autoencoder makes: samples, and reconstructions under their data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnnkit.methods.vae.fit_losses import Trainee
from bnnkit.run.vae.pictures import as_bytes, decoded, grid, samples
from bnnkit.run.vae.setup import VaeBench

__all__ = ["fit_grids"]

_COLUMNS = 10


@torch.no_grad()
def fit_grids(bench: VaeBench, net: Trainee, x: Tensor, seed: int) -> list[dict[str, Any]]:
    """Return the grids of a report.

    Args:
        bench: The autoencoder.
        net: The same with its trained posterior.
        x: Data `[n, D]`, of which the first few are shown.
        seed: Seed of the sampled latents.
    """
    net.module.eval()
    shown = x[:_COLUMNS]
    still = torch.zeros_like(net.posterior.noise(len(shown), 1, torch.Generator()))
    z = net.posterior(net.encode(shown), still.to(x.device)).z[0]
    pairs = torch.cat([as_bytes(bench, shown), decoded(bench, z)])
    drawn = samples(bench, torch.Generator().manual_seed(seed))
    return [grid("Samples", drawn), grid("Data, and below their reconstructions", pairs)]
