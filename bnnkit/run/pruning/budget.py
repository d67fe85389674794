"""The most compressed net within an error budget: rounds that close more while it holds.

Each round starts from the last net that held the budget, aims at a smaller share of its cost, and
is judged on held-out data by the upper end of the paired interval. What holds is kept and the
next step is as large or larger; what does not is taken back, and from then on the search halves
what lies between the two, on the logarithm of the cost. The factor between the shares follows
the slack of the constraint, in the direction of the dual ascent that each round does for its own
share.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.pruning.held_out import HeldOut
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.learn import run_round
from bnnkit.run.pruning.reference import Reference
from bnnkit.run.pruning.stage import Stage, first_stage
from bnnkit.spec import Quantity

__all__ = ["Held", "hold_budget", "round_epochs"]

_MOST_ROUNDS = 6
_LEAST_STEPS = 200
"""Optimiser steps in which noise can decide and a slim net can recover."""

_FIRST_STEP = 0.6
_SMALLEST_STEP = 0.3
_LEAST_GAIN = 0.98
"""A step that would save less than 2 % is not worth a round."""


@dataclass(frozen=True)
class Held:
    """What a search under an error budget came to.

    Args:
        stage: The most compressed stage that held the budget.
        rows: One `{round, share, error_rise, held}` a round.
        reference_epochs: How long the net was trained that the slim ones were compared with.
    """

    stage: Stage
    rows: list[dict[str, Any]]
    reference_epochs: int


def round_epochs(epochs: int, steps: int) -> list[range]:
    """Divide the epochs of a run into rounds of two or more, at most six rounds.

    Args:
        epochs: Of the run.
        steps: Optimiser steps of an epoch; where there are few, a round takes more epochs, as far
            as there are two rounds.

    >>> round_epochs(7, 400)
    [range(0, 2), range(2, 4), range(4, 7)]
    >>> round_epochs(7, 40)
    [range(0, 3), range(3, 7)]
    >>> round_epochs(0, 400)[:2]  # nothing is trained: rounds of deciding and refitting
    [range(0, 0), range(0, 0)]
    """
    if not epochs:
        return [range(0)] * _MOST_ROUNDS
    lasting = max(2, epochs * steps // _LEAST_STEPS)
    count = max(1, min(_MOST_ROUNDS, epochs // 2, lasting))
    ends = [epochs * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def hold_budget(job: Job, examples: HeldOut, checkpoints: Checkpoints) -> Held:
    """Search for the most compressed net whose error rise stays within the budget.

    Args:
        job: The run; its target has an error rise.
        examples: What is trained on, and what decides.
        checkpoints: Where the state of each epoch goes.
    """
    budget = job.config.target.error_rise
    assert budget is not None
    reference = Reference(job, examples, checkpoints)
    best, depth, search = first_stage(job), 0, _Search()
    rows: list[dict[str, Any]] = []
    steps = math.ceil(len(examples.train) / job.config.train.batch_size)
    for number, epochs in enumerate(round_epochs(job.config.train.epochs, steps), 1):
        if (step := search.step()) > _LEAST_GAIN:
            break
        start = replace(best, model=copy.deepcopy(best.model))
        goal = job.costs.closer(start.keep, step)
        tried = run_round(job, start, goal, epochs, examples.train, checkpoints, name=f"-{number}")
        share = job.costs.share(tried.keep)
        rise = reference.rise(tried.model, depth + 1, len(epochs), f"round {number}")
        holds = rise.high is not None and rise.high <= budget
        rows.append({"round": number, "share": share, "error_rise": rise, "held": holds})
        if holds:
            best, depth = tried, depth + 1
        search.saw(share, rise, holds, budget)
    if bool(best.keep.all()):
        job.notes.append(f"no round held {budget:g} points: nothing was removed")
    return Held(best, rows, reference.epochs)


@dataclass
class _Search:
    """Where the search stands, in shares of the full cost.

    Args:
        held: The least share that held the budget.
        failed: The largest that did not; 0 before there is one.
        boldness: Factor to the next share while none has failed.
    """

    held: float = 1.0
    failed: float = 0.0
    boldness: float = _FIRST_STEP

    def step(self) -> float:
        """Return the factor from the last share that held to the next."""
        return max(self.boldness, math.sqrt(self.failed / self.held))

    def saw(self, share: float, rise: Quantity, holds: bool, budget: float) -> None:
        """Learn from a round; one that left half of the budget makes the next step bolder."""
        if not holds:
            if math.isclose(share, self.failed, rel_tol=1e-3):
                self.boldness = 1.0  # units are too coarse for a share in between
            self.failed = max(self.failed, share)
            return
        self.held = share
        if rise.high is not None and rise.high <= budget / 2:
            self.boldness = max(_SMALLEST_STEP, self.boldness**2)
