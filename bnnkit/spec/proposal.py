"""What `mh-proposal` can be told: one table of defaults for the command and the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnnkit.errors import UsageError, did_you_mean

__all__ = ["FAMILIES", "OBJECTIVES", "ProposalConfig"]

FAMILIES = ("diagonal", "full-rank", "mixture", "flow")
OBJECTIVES = ("vi", "ar", "kl", "forward", "renyi")


@dataclass(frozen=True)
class ProposalConfig:
    """A learned independent proposal, and the chains that run under it.

    Args:
        family: Form of the proposal, one of `FAMILIES`.
        objective: What it is trained for, one of `OBJECTIVES`.
        components: Components of a mixture.
        steps: Gradient steps of the training.
        batch_size: Proposals in one step.
        lr: Learning rate at the start, in whitened coordinates.
        minibatch: Data rows behind one gradient; None takes all.
        spread: Deviation of the starts around the origin, in each coordinate: wide on purpose.
        walk_steps: Steps of the walk from each start.
        training_chains: Walks and chains of the training.
        chains: Chains of the final run.
        draws: Draws of each that are kept.
        warmup: Draws of each that are left out before.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of all random numbers.

    Raises:
        UsageError: A value has no meaning.
    """

    family: str = "mixture"
    objective: str = "kl"
    components: int = 8
    steps: int = 1000
    batch_size: int = 256
    lr: float = 1e-2
    minibatch: int | None = None
    spread: float = 10.0
    walk_steps: int = 500
    training_chains: int = 256
    chains: int = 64
    draws: int = 2000
    warmup: int = 100
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, name, known in (
            ("--family", self.family, FAMILIES),
            ("--objective", self.objective, OBJECTIVES),
        ):
            if name not in known:
                raise _refused(option, name, "it is not known", did_you_mean(name, known))
        for option, value, least in (
            ("--components", self.components, 1),
            ("--steps", self.steps, 0),
            ("--batch-size", self.batch_size, 2),
            ("--walk-steps", self.walk_steps, 1),
            ("--training-chains", self.training_chains, 2),
            ("--chains", self.chains, 2),
            ("--draws", self.draws, 10),
            ("--warmup", self.warmup, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise _refused(option, value, f"it must be at least {least}")
        if self.minibatch is not None and self.minibatch < 1:
            raise _refused("--minibatch", self.minibatch, "it must be at least 1")
        for option, number in (("--lr", self.lr), ("--spread", self.spread)):
            if not 0 < number < math.inf:
                raise _refused(option, number, "it must be above 0")
        if self.minibatch is not None and self.objective in ("ar", "forward", "renyi"):
            why = "the acceptance rate is not linear in log p, so minibatches would bias it"
            if self.objective != "ar":
                why = "this objective takes no gradient of the density"
            raise _refused("--minibatch", self.minibatch, why, "Use --objective kl or vi.")


def _refused(option: str, value: object, why: str, hint: str = "") -> UsageError:
    return UsageError(f"Reading {option}", repr(value), why, hint)
