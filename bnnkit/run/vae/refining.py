"""The refinement that fits the latents of an autoencoder, continuous or binary."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnnkit.methods.vae.refine import Refined, refine
from bnnkit.methods.vae.refine_binary import BinaryRefinement, refine_binary
from bnnkit.run.vae.setup import VaeBench
from bnnkit.spec.vae_refine import RefineConfig

__all__ = ["binary_refinement", "family_of", "refine_posteriors"]


def refine_posteriors(
    bench: VaeBench,
    x: Tensor,
    config: RefineConfig,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Refine the posterior of each datum.

    Args:
        bench: The autoencoder.
        x: Data `[n, D]`.
        config: How, settled by `RefineConfig.for_latents`.
        generator: Source of one seed per datum.
        progress: Called with the number of data done, and of all.

    Raises:
        UsageError: The family does not fit the latents.
    """
    if bench.belief is None:
        return refine(bench.model, x, config, generator=generator, progress=progress)
    how = binary_refinement(config)
    return refine_binary(bench.belief, x, how, generator, progress=progress)


def binary_refinement(config: RefineConfig) -> BinaryRefinement:
    """Return a refinement of binary latents as their methods are told it."""
    return BinaryRefinement(
        method=config.method,
        steps=config.steps,
        samples=max(config.draws, 1),  # centre passing draws none, and takes no number of them
        rate=config.rate,
        judged=config.judged,
        reported=config.reported,
        batch=config.batch_size,
    )


def family_of(bench: VaeBench, config: RefineConfig) -> str:
    """Return the name of the refined posteriors' family."""
    return config.family if bench.belief is None else "bernoulli"
