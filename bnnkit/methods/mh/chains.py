"""Chains over a bank of scored proposals: what is left to do once every weight is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.accept import independent
from bnnkit.errors import TrainingError

__all__ = ["Walk", "bank_chains"]

_START = -1
"""Bank row of a real image at which a chain starts: no proposal."""

_RESTARTS = 100


@dataclass(frozen=True)
class Walk:
    """Where chains over a bank ended.

    Args:
        rows: Bank row of each chain's last state `[chains]`; all are proposals.
        acceptance: Mean acceptance probability over the second half of the first chains.
        unmoved_share: Share of the first chains that never left the real image they began at.
        restarts: Chains that were begun again for that reason.
        by_length: `{length: (rows, acceptance)}` of the first chains at chosen lengths; -1 marks
            a chain that has not moved yet.
    """

    rows: Tensor
    acceptance: float
    unmoved_share: float
    restarts: int
    by_length: dict[int, tuple[Tensor, float]]


def bank_chains(
    scores: Tensor,
    starts: Tensor,
    chains: int,
    length: int,
    generator: torch.Generator,
    *,
    snapshots: Sequence[int] = (),
) -> Walk:
    """Run independent Metropolis-Hastings chains over scored proposals (Neklyudov et al. 2019).

    Each starts at the score of a real image. One that has never moved when it ends is begun again
    at another, so that no real image is ever an answer.

    Args:
        scores: Log p/q of the bank `[m]`; NaN is never accepted.
        starts: Log p/q of real held-out images `[r]`.
        chains: How many run at once, one answer each.
        length: Proposals offered to each.
        generator: Source of all draws, on the CPU.
        snapshots: Lengths at which the first chains are looked at.

    Raises:
        TrainingError: Chains refuse every proposal: generated and real do not overlap.
    """
    rows = torch.full((chains,), _START)
    waiting = torch.arange(chains)
    first: independent.IndependentState | None = None
    by_length: dict[int, tuple[Tensor, float]] = {}
    acceptance, restarts = 0.0, 0
    for attempt in range(_RESTARTS + 1):
        if attempt:
            restarts += len(waiting)
        rates = []
        for step, state, rate in _run(scores, starts, len(waiting), length, generator):
            rates.append(rate)
            if attempt == 0 and step in snapshots:
                by_length[step] = (state.position.clone(), rate)
        if first is None:
            first, acceptance = state, sum(rates[length // 2 :]) / len(rates[length // 2 :])
        rows[waiting] = state.position
        waiting = waiting[state.moves == 0]
        if not len(waiting):
            break
    assert first is not None  # the first attempt always runs
    unmoved = float((first.moves == 0).double().mean())
    if len(waiting):
        raise TrainingError(
            "Filtering the generator",
            f"{len(waiting)} of {chains} chains that accepted none of {length} proposals",
            "the discriminator tells generated from real images almost without fail, so the two "
            "hardly overlap",
            "Use longer chains (--chain-length), a softer discriminator (--temperature above 1), "
            "or a better generator.",
        )
    assert bool((rows >= 0).all())  # no real image is ever emitted
    return Walk(rows, acceptance, unmoved, restarts, by_length)


def _run(
    scores: Tensor, starts: Tensor, chains: int, length: int, generator: torch.Generator
) -> Iterator[tuple[int, independent.IndependentState, float]]:
    """Yield the chains after each step, and the mean acceptance probability of that step."""
    begun = starts[torch.randint(len(starts), (chains,), generator=generator)]
    state = independent.init(torch.full((chains,), _START), begun)
    for step in range(1, length + 1):
        offered = torch.randint(len(scores), (chains,), generator=generator)
        # float32 gives an exact 0, which accepts anything, once in 17 million
        uniform = torch.rand(chains, generator=generator, dtype=torch.float64)
        state, info = independent.step(state, offered, scores[offered], uniform)
        yield step, state, float(info.probability.mean())
