"""A file that is small enough: the plan lies in it beside the tensors, and grows with gaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from bnnkit.methods import Decision
from bnnkit.run.pruning.goals import Goal
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.stage import Stage

__all__ = ["plan_bytes", "small_enough"]

_MOST_TRIES = 8
_KEY_BYTES = 64
"""The plan's name in the header, the longer name of the other form, and the filling up."""


def small_enough(
    job: Job, stage: Stage, goal: Goal, decision: Decision, close: Callable[[float], Tensor]
) -> Tensor:
    """Return what stays so that the written file has the size that was asked for.

    Args:
        job: The run.
        stage: Where it stands.
        goal: Bytes of the tensors and their table, and how many the file may have.
        decision: Whose gates the plan records.
        close: Returns what stays for a limit of the tensors and their table.

    Raises:
        UsageError: So small a file cannot be reached.
    """
    limit = goal.limit
    for _ in range(_MOST_TRIES):
        keep = close(limit)
        found = goal.cost.total(keep) + plan_bytes(job, stage, replace(decision, keep=keep))
        if found <= goal.limit:
            break
        limit -= found - goal.limit
    return keep


def plan_bytes(job: Job, stage: Stage, decision: Decision) -> int:
    """Return how long the plan of a decision is as text inside a JSON header."""
    after = stage.after(decision, stage.model)
    plan = job.plan(after.keep, after.theta, "modules")
    return len(json.dumps(plan.to_json())) + _KEY_BYTES
