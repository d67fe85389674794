"""The samplers side by side: raw, filtered, other ways to use the same scores, and real images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.methods.mh.controls import importance_rows, langevin, rejection_rows
from bnnkit.run.filtering.choose import Chosen
from bnnkit.run.filtering.discriminate import ProgramNet
from bnnkit.run.filtering.filtered import Filtered
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.measure import Reference, Seen, look, measure, select, unique_share

__all__ = ["rivals", "sampler_rows"]

_LANGEVIN, _STEPS, _STEP_SIZE, _ROWS = 2000, 100, 0.01, 250


def sampler_rows(
    job: Job, bank: Bank, seen: Seen, chosen: Chosen, filtered: Filtered, reference: Reference
) -> list[dict[str, Any]]:
    """Measure raw, filtered and rival samples, and real ones as the floor, in the report's rows.

    Args:
        job: The run.
        bank: The proposals.
        seen: The proposals as the judges see them.
        chosen: The scores.
        filtered: What came out of the chains.
        reference: The test images.
    """
    count = min(job.config.metric_samples, job.config.samples)
    job.progress.start("measuring")
    first = torch.arange(min(count, len(bank)))
    chain = {key: filtered.chain[key] for key in ("acceptance", "unique_share", "seconds")}
    rows = [
        {"name": "raw", "label": "as the generator makes them", "delivered": False}
        | measure(job, select(seen, first), reference, full=True),
        {"name": f"{filtered.chain['proposal']} MH", "label": "filtered", "delivered": True}
        | measure(job, select(filtered.seen, torch.arange(count)), reference, full=True)
        | chain,
    ]
    job.progress.stop()
    rows += filtered.controls
    rows += rivals(job, bank, seen, chosen, reference, count)
    job.progress.start("measuring real images against real ones")
    floor = look(job.judges, job.fit.images[: len(job.test)])
    rows.append(
        {"name": "floor", "label": "real training images", "delivered": False}
        | measure(job, floor, reference, full=True)
    )
    job.progress.stop()
    return rows


def rivals(
    job: Job, bank: Bank, seen: Seen, chosen: Chosen, reference: Reference, count: int
) -> list[dict[str, Any]]:
    """Measure the controls that were asked for, in the report's rows.

    Args:
        job: The run.
        bank: The proposals.
        seen: The proposals as the judges see them.
        chosen: The scores.
        reference: The test images.
        count: Samples of each.
    """
    known: dict[str, Callable[[], dict[str, Any]]] = {
        "drs": lambda: _rejection(job, seen, chosen, reference, count),
        "sir": lambda: _importance(job, seen, chosen, reference, count),
        "ddls": lambda: _langevin(job, bank, chosen, reference, count),
    }
    out = []
    for name in job.config.controls:
        begun = time.process_time()
        job.progress.start(f"measuring {name}")
        with job.clock.phase("rivals"):
            row = known[name]()
        job.progress.stop()
        if row:
            out.append({"delivered": False, **row, "seconds": time.process_time() - begun})
    return out


def _rejection(
    job: Job, seen: Seen, chosen: Chosen, reference: Reference, count: int
) -> dict[str, Any]:
    rows, rate = rejection_rows(chosen.bank, count, job.random(11))
    return {
        "name": "rejection (DRS)",
        "label": "discriminator rejection sampling",
        "acceptance": rate,
        "unique_share": unique_share(rows),
    } | measure(job, select(seen, rows), reference, full=False)


def _importance(
    job: Job, seen: Seen, chosen: Chosen, reference: Reference, count: int
) -> dict[str, Any]:
    rows = importance_rows(chosen.bank, count, job.random(12))
    return {
        "name": "importance resampling (SIR)",
        "label": "sampling-importance-resampling",
        "unique_share": unique_share(rows),
    } | measure(job, select(seen, rows), reference, full=False)


def _langevin(
    job: Job, bank: Bank, chosen: Chosen, reference: Reference, count: int
) -> dict[str, Any]:
    """Walk in latent space; needs a density of the latents and gradients all the way."""
    made = job.generator
    reason = (
        f"latents of {made.latent} have no density here"
        if made.latent.kind != "normal"
        else "no gradient flows through this generator"
        if made.module is None
        else "no gradient flows through this discriminator"
        if any(isinstance(m, ProgramNet) for m in chosen.score.modules())
        else "pixels are sampled"
        if made.pixels == "sampled"
        else "it is class-conditional"
        if job.conditional
        else ""
    )
    if reason:
        job.notes.append(f"Langevin dynamics were left out: {reason}.")
        return {}
    draws, latents = job.random(13), []

    def score(z: Tensor) -> Tensor:
        found: Tensor = chosen.score(made.images(z).to(job.device))
        return found

    for z in torch.split(bank.latents[: min(count, _LANGEVIN)], _ROWS):
        latents.append(
            langevin(
                z.to(job.device), score, lambda v: -0.5 * v.flatten(1).square().sum(1), _STEPS,
                _STEP_SIZE, draws,
            ).cpu()
        )  # fmt: skip
    try:
        images = made.bytes(torch.cat(latents), None, draws)
    except DataError as error:  # far from its prior a generator may overflow
        job.notes.append(f"Langevin dynamics were left out: {error.found}.")
        return {}
    return {
        "name": "Langevin (DDLS)",
        "label": f"Langevin in latent space, {_STEPS} steps",
        "unique_share": 1.0,
        "note": f"{len(images)} samples only: a distance of fewer samples is larger by itself.",
    } | measure(job, look(job.judges, images), reference, full=False)
