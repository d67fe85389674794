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

_DISAGREEING = 0.05
"""Share of inputs on which two good models disagree, which widens the interval of their rise."""

_SHARES = (0.1, 0.5)

_SAME = 0.01
"""Share of examples that another part may hold as well, by chance."""


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
        UsageError: A share has no meaning, so few examples could never show the budget, or what
            `--val` names is tested or trained on.
        DataError: The data named by `--val` cannot be read.
    """
    examples = _parts(job)
    if examples.known and not job.config.train.epochs:
        raise UsageError(
            "Holding --max-error-rise", f"--epochs 0 and {examples.origin}",
            "what the original knows by heart shows damage later than fresh data do, and nothing "
            "is trained beside it", "Name data of their own with --val, or train for some epochs.",
        )  # fmt: skip
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
        held, origin = _named(job)
        _check_apart(job, held)
        return HeldOut(train, held, origin, known=False)
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


def _named(job: Job) -> tuple[Split, str]:
    """Return the examples that `--val` names: a test part, or all of data that have none."""
    spec = replace(
        job.data,
        name=job.config.val,
        mean=job.bench.data.mean,
        std=job.bench.data.std,
        input_shape=job.bench.data.input_shape,
        limit=None,
    )
    found = load_data(spec)
    held = found.whole if found.divided else found.test
    origin = f"{found.name}, all of it" if found.divided else f"the test part of {found.name}"
    if job.data.limit is None or job.data.limit >= len(held):
        return held, origin
    generator = torch.Generator().manual_seed(job.config.train.seed)
    return held.take(job.data.limit, generator), f"a random subset of {origin}"


def _check_apart(job: Job, held: Split) -> None:
    """Refuse examples that are tested or trained on as well."""
    what, data = f"Deciding by --val {job.config.val!r}", job.bench.data
    job.progress.start("comparing the held-out examples with the others")
    digests = held.digests()
    if (same := _among(digests, data.test)) >= _SAME:
        raise UsageError(
            what, f"{same:.0%} of its {len(held)} examples are in the test part of {data.name}",
            "a model that was chosen by the test part cannot be judged by it",
            "Name other data, or set a share of the training part aside with --val 0.1.",
        )  # fmt: skip
    if (same := _among(digests, data.train)) >= _SAME:
        raise UsageError(
            what, f"{same:.0%} of its {len(held)} examples are in the training part of "
            f"{data.name}", "a model may know by heart what it is trained on",
            "Use --val 0.1, which sets a share of the training part aside.",
        )  # fmt: skip
    job.progress.stop()


def _among(digests: list[bytes], part: Split) -> float:
    """Return which share of some examples a part holds."""
    there = set(part.digests())
    return sum(digest in there for digest in digests) / len(digests)


def _needed(job: Job) -> float:
    """Return the share whose interval is as wide as the budget, between a tenth and a half."""
    budget = job.config.target.error_rise
    assert budget is not None
    least, most = _SHARES
    if budget <= 0:
        return most
    count = _DISAGREEING * (1.96 / (budget / 100)) ** 2
    return min(most, max(least, count / len(job.bench.data.train)))
