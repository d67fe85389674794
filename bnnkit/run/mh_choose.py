"""Which score, and how sharp: chosen by what it filters, on real images kept for that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import TrainingError
from bnnkit.methods.mh.calibrate import isotonic_knots, platt_slope
from bnnkit.methods.mh.chains import bank_chains
from bnnkit.methods.mh.scores import CalibratedScore
from bnnkit.run.mh_discriminate import Candidate
from bnnkit.run.mh_job import Bank, Job
from bnnkit.run.mh_measure import Reference, Seen, distances, see_reference, select

__all__ = ["Chosen", "choose", "run_chains"]

TEMPERATURES = (1.4, 1.2, 1.0, 0.9, 0.83, 0.75)
_CHAINS = 4000


@dataclass(frozen=True)
class Chosen:
    """The score that chains are run on.

    Args:
        name: How the report calls it.
        score: The calibrated score as a module.
        bank: Its scores of the bank `[m]`.
        held: Its scores of held-out real images `[r]`.
        fresh: Its scores of generated images that nothing was fitted to `[r]`.
        temperature: What the raw score was divided by; None for a monotone map.
        rows: What there was to choose from, for the report.
    """

    name: str
    score: CalibratedScore
    bank: Tensor
    held: Tensor
    fresh: Tensor
    temperature: float | None
    rows: list[dict[str, Any]]


def choose(job: Job, ways: list[Candidate], bank: Bank, seen: Seen) -> Chosen:
    """Choose a candidate and its temperature by the held-out distance of what it filters.

    The distance is the geometric mean over the judges, from one half of the held-out images; the
    other half is what calibration maps are fitted to. The test images are not looked at.

    Args:
        job: The run.
        ways: The candidates.
        bank: The proposals.
        seen: The proposals as the judges see them.

    Raises:
        TrainingError: No candidate lets chains move.
    """
    half = len(job.held) // 2
    reference = see_reference(job.judges, job.held.images[half:])
    tried = [(way, wrapped) for way in ways for wrapped in _calibrations(job, way, half)]
    rows: list[dict[str, Any]] = []
    best: tuple[float, Candidate, CalibratedScore] | None = None
    job.progress.start("choosing the temperature", len(tried))
    for way, wrapped in tried:
        row = _judge(job, way, wrapped, bank, seen, reference)
        rows.append(row)
        job.progress.advance()
        if row["score"] is not None and (best is None or row["score"] < best[0]):
            best = (row["score"], way, wrapped)
    job.progress.stop()
    if best is None:
        raise TrainingError(
            "Choosing how sharp the discriminator is",
            f"{len(tried)} candidates, under none of which chains move",
            "generated and real images hardly overlap",
            "Use longer chains (--chain-length), or a better generator.",
        )
    _, way, wrapped = best
    for (other, tested), row in zip(tried, rows, strict=True):
        row["chosen"] = other is way and tested is wrapped
    sharp = None if wrapped.knots is not None else wrapped.temperature
    return Chosen(
        way.name,
        CalibratedScore(way.score, wrapped.temperature, wrapped.knots),
        wrapped.calibrate(way.bank),
        wrapped.calibrate(way.held),
        wrapped.calibrate(way.fresh),
        sharp,
        rows,
    )


def _calibrations(job: Job, way: Candidate, half: int) -> list[CalibratedScore]:
    """Return the slopes or maps to try; they hold no net yet."""
    config, none = job.config, torch.nn.Identity()
    if config.temperature is not None:
        return [CalibratedScore(none, config.temperature)]
    if config.calibrate == "none":
        return [CalibratedScore(none)]
    real, fake = way.held[:half], way.fresh[:half]
    if config.calibrate == "platt":
        return [CalibratedScore(none, 1 / platt_slope(real, fake))]
    if config.calibrate == "isotonic":
        return [CalibratedScore(none, knots=isotonic_knots(real, fake))]
    return [CalibratedScore(none, t) for t in TEMPERATURES]


def _judge(
    job: Job,
    way: Candidate,
    wrapped: CalibratedScore,
    bank: Bank,
    seen: Seen,
    reference: Reference,
) -> dict[str, Any]:
    """Filter with one candidate and take the distances."""
    chains = min(_CHAINS, len(bank))
    scores, starts = wrapped.calibrate(way.bank), wrapped.calibrate(way.held)
    row: dict[str, Any] = {"name": way.name, "chosen": False, "score": None, "distances": {}}
    row["temperature"] = None if wrapped.knots is not None else wrapped.temperature
    try:
        rows, _ = run_chains(job, bank, scores, starts, chains, 5)
    except TrainingError as error:
        return {**row, "note": error.found}
    found = distances(select(seen, rows), reference)
    row["distances"] = found
    row["score"] = math.exp(sum(math.log(max(v, 1e-12)) for v in found.values()) / len(found))
    return row


def run_chains(
    job: Job,
    bank: Bank,
    scores: Tensor,
    starts: Tensor,
    chains: int,
    purpose: int,
    snapshots: tuple[int, ...] = (),
) -> tuple[Tensor, list[Any]]:
    """Run chains over the bank; those of a class over its proposals only.

    Args:
        job: The run.
        bank: The proposals.
        scores: Their log p/q `[m]`.
        starts: Log p/q of held-out real images `[r]`.
        chains: How many; classes share them in the proportions of the real images.
        purpose: Which draws.
        snapshots: Lengths to look at.

    Returns:
        Bank rows `[chains]`, and the walk of each class (one without classes).
    """
    length, draws = job.config.length, job.random(purpose)
    if bank.labels is None:
        walk = bank_chains(scores, starts, chains, length, draws, snapshots=snapshots)
        return walk.rows, [walk]
    rows, walks = [], []
    for label, count in enumerate(job.dealt(chains)):
        if not count:
            continue
        mine = (bank.labels == label).nonzero().squeeze(1)
        begin = starts[job.held.labels == label]
        if not len(mine) or not len(begin):
            raise TrainingError(
                f"Filtering the class {label}",
                f"{len(mine)} proposals and {len(begin)} held-out real images of it",
                "a chain needs both",
                "Use a larger --bank or more held-out images (--held).",
            )
        walk = bank_chains(scores[mine], begin, count, length, draws, snapshots=snapshots)
        rows.append(mine[walk.rows])
        walks.append(walk)
    order = torch.randperm(chains, generator=draws)
    return torch.cat(rows)[order], walks
