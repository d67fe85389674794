"""The examples that decide about an error budget; the test part is never among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bnnkit.errors import UsageError
from bnnkit.io.data import Split, load_data
from bnnkit.io.datasets.subsets import stratified_rows
from bnnkit.metrics.paired import paired_difference
from bnnkit.run.pruning.job import Job

__all__ = ["HeldOut", "hold_out"]

_DISAGREEING = 0.02
"""Share of inputs on which two good models disagree, which widens the interval of their rise."""

_SHARES = (0.1, 0.5)


@dataclass(frozen=True)
class HeldOut:
    """What is trained on, and what decides.

    Args:
        train: What is trained on.
        held: What decides; no part of it is in `train`.
        origin: Where it comes from, in words.
        known: Whether the original was trained on it.
    """

    train: Split
    held: Split
    origin: str
    known: bool


def hold_out(job: Job) -> HeldOut:
    """Return what is trained on, what decides, and where that comes from.

    Raises:
        UsageError: A share has no meaning, or so few examples could never show the budget.
        DataError: The data named by `--val` cannot be read.
    """
    examples = _parts(job)
    held = examples.held
    least = 100 * paired_difference(torch.zeros(len(held)), torch.zeros(len(held)))["high"]
    budget = job.config.target.error_rise
    assert budget is not None
    if least > budget:
        raise UsageError(
            "Holding --max-error-rise",
            f"{len(held)} held-out examples for a budget of {budget:g} points",
            f"even without one error more their interval reaches {least:.2g} points",
            "Name more data with --val, allow more with --max-error-rise, or aim with "
            "--target-macs.",
        )
    return examples


def _parts(job: Job) -> HeldOut:
    train, val = job.bench.data.train, job.config.val
    try:
        share = _needed(job) if val == "auto" else float(val)
    except ValueError:
        spec = replace(
            job.data,
            name=val,
            mean=job.bench.data.mean,
            std=job.bench.data.std,
            input_shape=job.bench.data.input_shape,
        )
        found = load_data(spec)
        return HeldOut(train, found.test, f"the test part of {found.name}", known=False)
    if not 0 < share < 1:
        raise UsageError(
            "Reading --val",
            repr(val),
            "a share lies between 0 and 1",
            "Use --val 0.1, or name other data.",
        )
    generator = torch.Generator().manual_seed(job.config.train.seed)
    stays, out = stratified_rows(train.labels, share, generator)
    origin = f"{share:.0%} of the training part"
    return HeldOut(train.select(stays), train.select(out), origin, known=True)


def _needed(job: Job) -> float:
    """Return the share whose interval is as wide as the budget, between a tenth and a half."""
    budget = job.config.target.error_rise
    assert budget is not None
    least, most = _SHARES
    if budget <= 0:
        return most
    count = _DISAGREEING * (1.96 / (budget / 100)) ** 2
    return min(most, max(least, count / len(job.bench.data.train)))
