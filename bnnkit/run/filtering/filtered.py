"""What comes out of the chains of a run, over a bank or step by step, and at which length."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.accept.independent import acceptance_rate
from bnnkit.methods.mh.chains import Walk
from bnnkit.run.filtering.chains import run_chains
from bnnkit.run.filtering.choose import Chosen
from bnnkit.run.filtering.encoder import PairModel
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.markov import step_by_step
from bnnkit.run.filtering.measure import (
    Reference,
    Seen,
    class_score,
    distances,
    look,
    select,
    unique_share,
)

__all__ = ["Filtered", "run_filter"]

_LENGTHS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)


@dataclass
class Filtered:
    """What came out of the chains.

    Args:
        images: uint8 `[n, c, h, w]`.
        latents: `[n, ...]`.
        labels: int64 `[n]`, or None.
        rows: Bank rows `[n]`; -1 where proposals were made for each step.
        seen: The images as the judges see them.
        chain: The report's section.
        curve: The report's figures by chain length.
        controls: Rows for the table of samplers.
        pairs: What chains through an encoder were run on, or None.
    """

    images: Tensor
    latents: Tensor
    labels: Tensor | None
    rows: Tensor
    seen: Seen
    chain: dict[str, Any]
    curve: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    pairs: PairModel | None = None


def run_filter(job: Job, bank: Bank, seen: Seen, chosen: Chosen, reference: Reference) -> Filtered:
    """Run the chains that the configuration asks for, and look at what they give.

    Args:
        job: The run.
        bank: The proposals.
        seen: The proposals as the judges see them.
        chosen: Their scores.
        reference: The test images.

    Raises:
        TrainingError: Chains refuse every proposal.
    """
    if job.config.over_bank:
        return _over_bank(job, bank, seen, chosen, reference)
    return _step_by_step(job, bank, chosen, reference)


def _over_bank(job: Job, bank: Bank, seen: Seen, chosen: Chosen, reference: Reference) -> Filtered:
    """Run chains over the bank, and look at them at several lengths."""
    config = job.config
    lengths = (*(n for n in _LENGTHS if n < config.length), config.length)
    job.progress.start("running the chains")
    begun = time.process_time()
    with job.clock.phase("chains"):
        rows, walks = run_chains(
            job, bank, chosen.bank, chosen.held, config.samples, 6, snapshots=lengths
        )
    seconds = time.process_time() - begun
    job.progress.stop()
    assert bool((rows >= 0).all())  # every image is a proposal, none is real
    chain = _movement(walks) | {
        "proposal": "independent",
        "length": config.length,
        **_from_real(job, chosen),
        "unique_share": unique_share(rows),
        "per_second": len(rows) / max(seconds, 1e-9),
        "seconds": seconds,
    }
    curve = _curve(job, walks[0], seen, reference) if len(walks) == 1 else []
    labels = None if bank.labels is None else bank.labels[rows]
    found = select(seen, rows)
    return Filtered(bank.images[rows], bank.latents[rows], labels, rows, found, chain, curve)


def _movement(walks: list[Walk]) -> dict[str, Any]:
    """Return how the chains of all classes moved."""
    total = sum(len(walk.rows) for walk in walks)

    def mean(values: list[float]) -> float:
        pairs = zip(walks, values, strict=True)
        return sum(len(walk.rows) * value for walk, value in pairs) / total

    return {
        "chains": total,
        "acceptance": mean([walk.acceptance for walk in walks]),
        "unmoved_share": mean([walk.unmoved_share for walk in walks]),
        "restarts": sum(walk.restarts for walk in walks),
    }


def _from_real(job: Job, chosen: Chosen) -> dict[str, float]:
    """Return the acceptance of proposals at real images, and Theorem 1's estimate from it.

    A chain of a class is offered proposals of that class only, so classes are averaged.
    """
    labels = chosen.fresh_labels
    if labels is None:
        rate = acceptance_rate(chosen.held, chosen.fresh)
    else:
        shared = set(job.held.labels.tolist()) & set(labels.tolist())
        rates, counts = [], []
        for label in sorted(shared):
            real = chosen.held[job.held.labels == label]
            rates.append(acceptance_rate(real, chosen.fresh[labels == label]))
            counts.append(len(real))
        rate = sum(n * r for n, r in zip(counts, rates, strict=True)) / sum(counts)
    return {"acceptance_from_real": rate, "tv_estimate": 1 - rate}


def _step_by_step(job: Job, bank: Bank, chosen: Chosen, reference: Reference) -> Filtered:
    """Run chains whose proposals are made for each step."""
    with job.clock.phase("chains"):
        found = step_by_step(job, bank, chosen, reference)
    real = {} if job.config.proposal == "encoder" else _from_real(job, chosen)
    return Filtered(
        found.images,
        found.latents,
        found.labels,
        torch.full((len(found.images),), -1),
        look(job.judges, found.images),
        found.chain | real,
        controls=found.rows,
        pairs=found.pairs,
    )


def _curve(job: Job, walk: Walk, seen: Seen, reference: Reference) -> list[dict[str, Any]]:
    """Measure the chains at several lengths; one that has not moved has nothing to show yet."""
    out = []
    for length, (rows, acceptance) in walk.by_length.items():
        moved = rows[rows >= 0]
        if len(moved) < 2:
            continue
        there = select(seen, moved)
        metrics = {name: {"fid": value} for name, value in distances(there, reference).items()}
        judge = next((j for j in job.judges if j.classes), None)
        if judge is not None and there.probabilities is not None:
            metrics[judge.name]["is"] = class_score(there.probabilities)[0]
        out.append(
            {
                "length": length,
                "acceptance": acceptance,
                "unmoved_share": 1 - len(moved) / len(rows),
                "metrics": metrics,
            }
        )
    return out
