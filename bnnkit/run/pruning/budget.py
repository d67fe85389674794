"""The most compressed net within an error budget: rounds that close more while it holds.

Each round starts from the last net that held the budget, aims at a smaller share of its cost, and
is judged on held-out data by the upper end of the paired interval. What holds is kept and the
next step is as large or larger; what does not is taken back and the next step is smaller. The
factor between the shares therefore follows the slack of the constraint, in the direction of the
dual ascent that each round does for its own share.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bnnkit.io.data import Split
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.evaluate import Predictions, compare
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.learn import Stage, first_stage, run_round
from bnnkit.spec import Quantity

__all__ = ["Held", "hold_budget", "round_epochs"]

_MOST_ROUNDS = 6
_FIRST_STEP = 0.7
_SMALLEST_STEP = 0.3
_LEAST_GAIN = 0.98
"""A step that would save less than 2 % is not worth a round."""


@dataclass(frozen=True)
class Held:
    """What a search under an error budget came to.

    Args:
        stage: The most compressed stage that held the budget.
        rows: One `{round, share, error_rise, held}` a round.
        notes: What its owner should know.
    """

    stage: Stage
    rows: list[dict[str, Any]]
    notes: list[str]


def round_epochs(epochs: int) -> list[range]:
    """Divide the epochs of a run into rounds of two or more, at most six rounds.

    >>> round_epochs(7)
    [range(0, 2), range(2, 4), range(4, 7)]
    """
    count = max(1, min(_MOST_ROUNDS, epochs // 2))
    ends = [epochs * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def hold_budget(job: Job, train: Split, held_out: Split, checkpoints: Checkpoints) -> Held:
    """Search for the most compressed net whose error rise stays within the budget.

    Args:
        job: The run; its target has an error rise.
        train: What is trained on.
        held_out: What decides; no part of it is in `train`.
        checkpoints: Where the state of each epoch goes.
    """
    budget = job.config.target.error_rise
    assert budget is not None
    before = job.predict(job.original, held_out, "measuring the original on held-out data")
    best, step = first_stage(job), _FIRST_STEP
    rows: list[dict[str, Any]] = []
    for number, epochs in enumerate(round_epochs(job.config.train.epochs), 1):
        if step > _LEAST_GAIN:
            break
        start = replace(best, model=copy.deepcopy(best.model))
        goal = job.costs.closer(start.keep, step)
        tried = run_round(job, start, goal, epochs, train, checkpoints, name=f"-{number}")
        rise = _rise(job, before, tried, held_out, number)
        holds = rise.high is not None and rise.high <= budget
        share = job.costs.share(tried.keep)
        rows.append({"round": number, "share": share, "error_rise": rise, "held": holds})
        if holds:
            best = tried
        step = _next_step(step, rise, holds)
    nothing = bool(best.keep.all())
    notes = [f"no round held {budget:g} points: nothing was removed"] if nothing else []
    return Held(best, rows, notes)


def _rise(job: Job, before: Predictions, tried: Stage, held_out: Split, number: int) -> Quantity:
    after = job.predict(tried.model, held_out, f"measuring round {number} on held-out data")
    return compare(before, after)["error_rise"]


def _next_step(step: float, rise: Quantity, holds: bool) -> float:
    """Return the next factor: a smaller step after a failure, a bolder one where it was free."""
    if not holds:
        return math.sqrt(step)
    return max(_SMALLEST_STEP, step**2) if rise.value <= 0 else step
