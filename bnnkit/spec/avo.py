"""What `avo-toy` can be told: one table of defaults for the command and the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnnkit.errors import UsageError, did_you_mean

__all__ = ["CHAINS", "FLOWS", "METHODS", "SCHEDULES", "AvoToyConfig"]

CHAINS = ("elbo", "alpha", "beta", "avo", "avo+elbo")
"""Objectives of hierarchical variational inference."""
FLOWS = ("planar", "iaf", "realnvp", "nsf")
METHODS = (*CHAINS, *FLOWS)
SCHEDULES = ("linear", "quadratic", "sigmoid")


@dataclass(frozen=True)
class AvoToyConfig:
    """Chains and flows that are trained on an energy in the plane.

    Args:
        methods: What is trained, of `METHODS`.
        transitions: T, transitions of a chain.
        hidden: Width of the networks of a transition.
        schedule: The path of the annealed objectives, one of `SCHEDULES`.
        spread: Deviation of the start q_0, which is Gaussian around the origin.
        spacing: How many times as far the modes of energy D lie.
        steps: Gradient steps of each method.
        batch_size: Draws in one step.
        lr: Learning rate at the start; it falls to 0 as a half cosine.
        warm: Share of the steps in which `alpha` and `beta` warm up, and `avo+elbo` explores.
        bias: Mean of the noise in the gradient of the energy, in the second training of `elbo`
            and `avo`; 0 leaves it out.
        samples: Draws that each method is judged by.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of all random numbers.

    Raises:
        UsageError: A value has no meaning.
    """

    methods: tuple[str, ...] = METHODS
    transitions: int = 10
    hidden: int = 32
    schedule: str = "linear"
    spread: float = 1.0
    spacing: float = 1.0
    steps: int = 1000
    batch_size: int = 256
    lr: float = 2e-3
    warm: float = 0.5
    bias: float = 3.0
    samples: int = 50_000
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.methods:
            raise _refused("--method", "none", "there is nothing to train")
        for option, names, known in (
            ("--method", self.methods, METHODS),
            ("--schedule", (self.schedule,), SCHEDULES),
        ):
            for name in names:
                if name not in known:
                    raise _refused(option, name, "it is not known", did_you_mean(name, known))
        if len(set(self.methods)) < len(self.methods):
            raise _refused("--method", ", ".join(self.methods), "a method is named twice")
        for option, value, least in (
            ("--transitions", self.transitions, 1),
            ("--hidden", self.hidden, 1),
            ("--steps", self.steps, 1),
            ("--batch-size", self.batch_size, 2),
            ("--samples", self.samples, 100),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise _refused(option, value, f"it must be at least {least}")
        for option, number in (
            ("--lr", self.lr),
            ("--spread", self.spread),
            ("--spacing", self.spacing),
        ):
            if not 0 < number < math.inf:
                raise _refused(option, number, "it must be above 0")
        if not 0 <= self.warm <= 1:
            raise _refused("--warm", self.warm, "it is a share of the steps, 0 to 1")
        if not 0 <= self.bias < math.inf:
            raise _refused("--bias", self.bias, "it must be 0 or more")


def _refused(option: str, value: object, why: str, hint: str = "") -> UsageError:
    return UsageError(f"Reading {option}", repr(value), why, hint)
