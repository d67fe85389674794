"""Chains over the bank of a run; those of a class start and stay in that class."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.errors import DataError, TrainingError
from bnnkit.methods.mh.chains import Walk, bank_chains
from bnnkit.run.filtering.job import Bank, Job

__all__ = ["run_chains", "start_scores"]


def run_chains(
    job: Job,
    bank: Bank,
    scores: Tensor,
    starts: Tensor,
    chains: int,
    purpose: int,
    snapshots: tuple[int, ...] = (),
) -> tuple[Tensor, list[Walk]]:
    """Run chains over the bank; those of a class over its proposals only.

    Args:
        job: The run.
        bank: The proposals.
        scores: Their log p/q `[m]`.
        starts: Log p/q of held-out real images `[r]`.
        chains: How many; classes share them in the proportions of the real images.
        purpose: Which draws.
        snapshots: Lengths to look at.

    Returns:
        Bank rows `[chains]`, and the walk of each class (one without classes).

    Raises:
        DataError: A class has no proposal, or no real image to start at.
        TrainingError: Chains refuse every proposal.
    """
    length, draws = job.config.length, job.random(purpose)
    if bank.labels is None:
        walk = bank_chains(scores, starts, chains, length, draws, snapshots=snapshots)
        return walk.rows, [walk]
    rows, walks = [], []
    for label, count in enumerate(job.dealt(chains)):
        if not count:
            continue
        mine = (bank.labels == label).nonzero().squeeze(1)
        if not len(mine):
            raise _too_few(label, "no proposal", "Use a larger --bank.")
        begin = _of_class(job, starts, label)
        try:
            walk = bank_chains(scores[mine], begin, count, length, draws, snapshots=snapshots)
        except TrainingError as error:
            what = f"Filtering the class {label}"
            raise TrainingError(what, error.found, error.why, error.hint) from error
        rows.append(mine[walk.rows])
        walks.append(walk)
    order = torch.randperm(chains, generator=draws)
    return torch.cat(rows)[order], walks


def start_scores(
    job: Job, scores: Tensor, labels: Tensor | None, chains: int, draws: torch.Generator
) -> Tensor:
    """Draw the real held-out image at which each chain starts, and return its score.

    Args:
        job: The run.
        scores: Log p/q of the held-out real images `[r]`.
        labels: The class of each chain, int64 `[chains]`; None without classes.
        chains: How many.
        draws: Source of the draws.

    Returns:
        Log p/q `[chains]`, each of a real image of the chain's own class.

    Raises:
        DataError: A class has no held-out image.
    """
    if labels is None:
        return scores[torch.randint(len(scores), (chains,), generator=draws)]
    out = scores.new_empty(chains)
    for label in sorted(set(labels.tolist())):
        pool, mine = _of_class(job, scores, label), labels == label
        out[mine] = pool[torch.randint(len(pool), (int(mine.sum()),), generator=draws)]
    return out


def _of_class(job: Job, scores: Tensor, label: int) -> Tensor:
    """Return the scores of the held-out real images of a class."""
    found = scores[job.held.labels == label]
    if not len(found):
        raise _too_few(label, "no held-out real image", "Use more data, or a larger --held.")
    return found


def _too_few(label: int, found: str, hint: str) -> DataError:
    """Word a class that no chain can be run for."""
    why = "its chains start at real images of it and are offered proposals of it"
    return DataError(f"Filtering the class {label}", f"{found} of it", why, hint)
