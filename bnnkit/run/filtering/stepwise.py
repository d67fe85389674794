"""What chains share that are run step by step: starts that were never left are begun again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import TrainingError
from bnnkit.methods.mh.markov import Walked
from bnnkit.run.filtering.job import Job

__all__ = ["Collected", "chain_section", "until_moved"]

_RESTARTS = 100
_KINDS = {"walk": "latent walk", "encoder": "encoder", "independent": "independent, fresh"}


@dataclass
class Collected:
    """Chains put together from all attempts: one that never moved was begun again.

    Args:
        latents: `[n, ...]`.
        images: uint8 `[n, c, h, w]`, or None where the latents make them.
        first: The first attempt.
        restarts: Chains that were begun again.
    """

    latents: Tensor
    images: Tensor | None
    first: Walked
    restarts: int = 0


def until_moved(count: int, run: Callable[[Tensor], Walked]) -> Collected:
    """Run chains until each has moved away from its real start.

    Args:
        count: How many.
        run: Runs those of some numbers `[m]`.

    Raises:
        TrainingError: Some do not move in several attempts.
    """
    first = run(torch.arange(count))
    out = Collected(first.latents, first.images, first)
    waiting = (~first.moved).nonzero().squeeze(1)
    for _ in range(_RESTARTS):
        if not len(waiting):
            break
        again = run(waiting)
        out.latents[waiting] = again.latents
        if out.images is not None and again.images is not None:
            out.images[waiting] = again.images
        out.restarts += len(waiting)
        waiting = waiting[~again.moved]
    if len(waiting):
        raise TrainingError(
            "Filtering the generator",
            f"{len(waiting)} of {count} chains that accepted no proposal in {_RESTARTS + 1} tries",
            "the discriminator tells proposals from real images almost without fail",
            "Use longer chains (--chain-length), smaller steps (--step), or a softer "
            "discriminator (--temperature above 1).",
        )
    return out


def chain_section(job: Job, found: Collected, seconds: float) -> dict[str, Any]:
    """Return the report's section of chains that took `seconds` of CPU time."""
    count = len(found.latents)
    return {
        "proposal": _KINDS[job.config.proposal],
        "length": job.config.length,
        "chains": count,
        "acceptance": found.first.acceptance,
        "unmoved_share": float((~found.first.moved).double().mean()),
        "restarts": found.restarts,
        "unique_share": 1.0,
        "per_second": count / max(seconds, 1e-9),
        "seconds": seconds,
    }
