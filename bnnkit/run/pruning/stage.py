"""What has become of the model so far: the slim net, and every decision about the original."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnnkit.graph.structure import Structure
from bnnkit.methods import Decision
from bnnkit.methods.reconstruct import Refit
from bnnkit.run.pruning.job import Job

__all__ = ["Stage", "first_stage"]


@dataclass(frozen=True)
class Stage:
    """What has become of the model so far.

    Args:
        model: The slim model, on the CPU.
        structure: The channel classes of `model`.
        keep: `[units of the run]` bool, what is left of the original's units.
        theta: `[units of the run]` the frozen gates of all decisions, folded into the weights.
        reopened: Classes that would have been left empty.
        evidence: `{name: [units of the run]}`, for each unit the last decision about it.
        refits: What came of refitting layers after the last decision.
    """

    model: nn.Module
    structure: Structure
    keep: Tensor
    theta: Tensor
    reopened: tuple[str, ...] = ()
    evidence: dict[str, Tensor] = field(default_factory=dict)
    refits: tuple[Refit, ...] = ()

    def after(self, decision: Decision, model: nn.Module) -> Stage:
        """Return the stage that a decision about its kept units leads to."""
        left = self.keep.nonzero().reshape(-1)
        keep, theta = self.keep.clone(), self.theta.clone()
        keep[left] = decision.keep
        theta[left] = theta[left] * decision.theta.to(theta)
        evidence = {}
        for name, values in decision.evidence.items():
            before = self.evidence.get(name, torch.zeros(len(self.keep)))
            evidence[name] = before.index_copy(0, left, values.to(before))
        structure = self.structure.narrowed(decision.keep)
        reopened = (*self.reopened, *decision.reopened)
        return Stage(model, structure, keep, theta, reopened, evidence)


def first_stage(job: Job) -> Stage:
    """Return the untouched original with everything open."""
    units = job.structure.n_units
    model, everything = job.bench.module, torch.ones(units)
    return Stage(model, job.structure, everything.bool(), everything)
