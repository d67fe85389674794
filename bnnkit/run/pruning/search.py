"""From the original to the slim net that was asked for, by one round of learning or by several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from bnnkit.errors import UsageError
from bnnkit.methods import METHODS, RANKINGS, Setting
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.pruning.budget import hold_budget
from bnnkit.run.pruning.held_out import hold_out
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.learn import run_round
from bnnkit.run.pruning.stage import Stage, first_stage

__all__ = ["Learned", "learn", "rehearse"]


@dataclass(frozen=True)
class Learned:
    """What a run learned.

    Args:
        stage: The model and every decision about it.
        sections: Further sections of the report.
    """

    stage: Stage
    sections: dict[str, Any] = field(default_factory=dict)


def rehearse(job: Job) -> None:
    """Refuse now what could only fail after hours of training.

    Raises:
        BnnkitError: A setting names a layer that there is not, the target cannot be reached, the
            held-out data cannot be read, or the decision could not be written down.
    """
    config, structure = job.config, job.structure
    everything = torch.ones(structure.n_units)
    job.plan(everything.bool(), everything, "modules")
    if config.method in METHODS:
        generator = torch.Generator(job.device).manual_seed(0)
        price = job.costs.price(everything.bool())
        METHODS[config.method](
            Setting(structure, job.original, config, 1, generator, job.device, price)
        )
    if config.removal_seed is not None:
        return
    if job.costs.goal(everything.bool()) is not None:
        job.costs.check_target(job.costs.round_to())
    elif config.method in RANKINGS and config.target.error_rise is None:
        raise UsageError(
            "Pruning", f"--method {config.method}", "it ranks units and cannot tell how many to "
            "remove", "Add a target, such as --target-macs 0.5 or --max-error-rise 0.5.",
        )  # fmt: skip
    if config.target.is_budget():
        hold_out(job)


def learn(job: Job, checkpoints: Checkpoints) -> Learned:
    """Learn what to close, remove it, and recover what was lost.

    Args:
        job: The run.
        checkpoints: Where the state of each epoch goes.
    """
    config, data = job.config, job.bench.data
    if not config.target.is_budget():
        start = first_stage(job)
        goal, epochs = job.costs.goal(start.keep), range(config.train.epochs)
        return Learned(run_round(job, start, goal, epochs, data.train, checkpoints))
    examples = hold_out(job)
    held = hold_budget(job, examples, checkpoints)
    if examples.known:
        also = (
            f"; a full net that was made to forget it, in {held.reference_epochs} epochs, was the "
            "other measure"
        )
        job.notes.append(
            f"the budget was judged on {examples.origin}, which the original was trained on and "
            f"may know by heart{also if held.reference_epochs else ''}; --val names fresh data"
        )
    search = {
        "data": examples.origin,
        "n": len(examples.held),
        "known": examples.known,
        "reference_epochs": held.reference_epochs,
        "rounds": held.rows,
    }
    return Learned(held.stage, {"search": search})
