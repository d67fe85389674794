"""Which score, and how sharp: chosen by what it filters, on real images kept for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import TrainingError
from bnnkit.methods.mh.calibrate import isotonic_knots, platt_slope
from bnnkit.methods.mh.scores import CalibratedScore
from bnnkit.run.filtering.chains import run_chains
from bnnkit.run.filtering.discriminate import Candidate
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.measure import Reference, Seen, distances, see_reference, select

__all__ = ["Chosen", "choose"]

TEMPERATURES = (1.4, 1.2, 1.0, 0.9, 0.83, 0.75)
_CHAINS = 4000
_FURTHER, _SHARPER, _FLATTER = 3, 0.9, 1.2
"""Most steps beyond an edge of the grid, and their factors."""


@dataclass(frozen=True)
class Chosen:
    """The score that chains are run on.

    Args:
        name: How the report calls it.
        score: The calibrated score as a module.
        bank: Its scores of the bank `[m]`.
        held: Its scores of held-out real images `[r]`.
        fresh: Its scores of generated images that nothing was fitted to `[r]`.
        fresh_labels: Their classes, int64 `[r]`, of a class-conditional generator.
        temperature: What the raw score was divided by; None for a monotone map.
        rows: What there was to choose from, for the report.
    """

    name: str
    score: CalibratedScore
    bank: Tensor
    held: Tensor
    fresh: Tensor
    fresh_labels: Tensor | None
    temperature: float | None
    rows: list[dict[str, Any]]


@dataclass
class _Trial:
    """A candidate as it was tried.

    Args:
        way: The candidate.
        wrapped: How it was calibrated; holds no net.
        row: What came out, for the report.
    """

    way: Candidate
    wrapped: CalibratedScore
    row: dict[str, Any]


def choose(job: Job, ways: list[Candidate], bank: Bank, seen: Seen) -> Chosen:
    """Choose a candidate and its temperature by the held-out distance of what it filters.

    The distance is the geometric mean over the judges, from one half of the held-out images; the
    other half is what calibration maps are fitted to. The test images are not looked at. Where the
    best temperature is the last of the grid, the grid goes on beyond it.

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
    pairs = [(way, wrapped) for way in ways for wrapped in _calibrations(job, way, half)]
    job.progress.start("choosing the temperature", len(pairs))

    def tried(way: Candidate, wrapped: CalibratedScore) -> _Trial:
        row = _judge(job, way, wrapped, bank, seen, reference)
        job.progress.advance()
        return _Trial(way, wrapped, row)

    trials = [tried(*pair) for pair in pairs]
    best = _best(trials)
    for _ in range(_FURTHER if _by_distance(job) else 0):
        beyond = _beyond(best, trials)
        if beyond is None:
            break
        trials.append(tried(best.way, CalibratedScore(torch.nn.Identity(), beyond)))
        best = _best(trials)
    job.progress.stop()
    if _by_distance(job) and job.config.proposal != "encoder":
        job.notes += _at_the_edge(best, trials)
    best.row["chosen"] = True
    return _chosen(best, [trial.row for trial in trials])


def _by_distance(job: Job) -> bool:
    """Tell whether the temperature is chosen by distances."""
    return job.config.calibrate == "temperature" and job.config.temperature is None


def _best(trials: Sequence[_Trial]) -> _Trial:
    """Return the trial of the smallest distance."""
    moved = [trial for trial in trials if trial.row["score"] is not None]
    if not moved:
        raise TrainingError(
            "Choosing how sharp the discriminator is",
            f"{len(trials)} candidates, under none of which chains move "
            f"(the last: {trials[-1].row.get('note')})",
            "generated and real images hardly overlap",
            "Use longer chains (--chain-length), or a better generator.",
        )
    return min(moved, key=lambda trial: trial.row["score"])


def _beyond(best: _Trial, trials: Sequence[_Trial]) -> float | None:
    """Return the next temperature beyond an edge of the grid; None for one inside of it."""
    mine = [trial.wrapped.temperature for trial in trials if trial.way is best.way]
    if best.wrapped.temperature == min(mine):
        return best.wrapped.temperature * _SHARPER
    return best.wrapped.temperature * _FLATTER if best.wrapped.temperature == max(mine) else None


def _at_the_edge(best: _Trial, trials: Sequence[_Trial]) -> list[str]:
    """Say which edge of the grid was chosen all the same, and what that means."""
    beyond, chosen = _beyond(best, trials), best.wrapped.temperature
    if beyond is None:
        return []
    if beyond < chosen:
        return [
            f"The chosen temperature, {chosen:.2g}, is the lowest that was tried: held-out images "
            "asked for a still sharper score. Try a lower one with --temperature."
        ]
    return [
        f"The chosen temperature, {chosen:.2g}, is the highest that was tried: held-out images "
        "asked for a still flatter score, so the discriminator is surer than it is right. Try a "
        "higher one with --temperature, or a better discriminator."
    ]


def _chosen(best: _Trial, rows: list[dict[str, Any]]) -> Chosen:
    """Put the best candidate together with its net."""
    way, wrapped = best.way, best.wrapped
    return Chosen(
        way.name,
        CalibratedScore(way.score, wrapped.temperature, wrapped.knots),
        wrapped.calibrate(way.bank),
        wrapped.calibrate(way.held),
        wrapped.calibrate(way.fresh),
        way.fresh_labels,
        None if wrapped.knots is not None else wrapped.temperature,
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
