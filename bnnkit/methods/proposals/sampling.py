"""The final run: many chains of independent Metropolis-Hastings under a frozen proposal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.accept import independent
from bnnkit.methods.proposals.density import Density
from bnnkit.methods.proposals.explore import Walks
from bnnkit.methods.proposals.families import Proposal

__all__ = ["Chains", "run_chains"]

_BLOCK = 1 << 13


@dataclass(frozen=True)
class Chains:
    """What the chains left behind.

    Args:
        samples: float32 `[chains, draws, dim]`.
        log_prob: Their log densities `[chains, draws]`, float64.
        moved: Whether the chain had left its start by then, bool `[chains, draws]`.
        acceptance: Mean acceptance probability of each chain `[chains]`, float64.
        log_weight: log p/q of every proposal `[n]`, float64.
    """

    samples: Tensor
    log_prob: Tensor
    moved: Tensor
    acceptance: Tensor
    log_weight: Tensor


def run_chains(
    proposal: Proposal,
    density: Density,
    starts: Walks,
    *,
    draws: int,
    warmup: int,
    generator: torch.Generator,
    told: Callable[[int], None] | None = None,
) -> Chains:
    """Run a chain from each start; proposals are drawn and weighed in blocks.

    Args:
        proposal: What proposes; it does not change.
        density: The target.
        starts: Where the chains start, `[chains, dim]`.
        draws: Kept draws of each chain.
        warmup: Draws before them that are left out.
        generator: Source of all random numbers.
        told: Told how many more steps were done.
    """
    count = len(starts.ends)
    with torch.no_grad():
        first = starts.log_prob - proposal.log_prob(starts.ends).double()
    state = independent.init(torch.arange(count), first)  # positions are rows of a block
    x, log_p = starts.ends, starts.log_prob
    kept: list[tuple[Tensor, ...]] = []
    weights, rates = [], []
    total, done = warmup + draws, 0
    while done < total:
        size = min(max(1, _BLOCK // count), total - done)
        with torch.no_grad():
            offered = proposal.sample(size * count, generator)
            offered_p = density.values(offered)
            weight = offered_p - proposal.log_prob(offered).double()
        uniform = torch.rand(size, count, generator=generator, dtype=torch.float64)
        # rows 0 .. count - 1 are where the chains are, the proposals come after them
        state = independent.IndependentState(torch.arange(count), state.log_weight, state.moves)
        rows, moves = [], []
        for i in range(size):
            index = torch.arange((i + 1) * count, (i + 2) * count)
            block = weight[i * count : (i + 1) * count]
            state, info = independent.step(state, index, block, uniform[i])
            rows.append(state.position)
            moves.append(state.moves > 0)
            if done + i >= warmup:
                rates.append(info.probability)
        places, densities = torch.cat([x, offered]), torch.cat([log_p, offered_p])
        kept.append((places[torch.stack(rows)], densities[torch.stack(rows)], torch.stack(moves)))
        x, log_p = places[state.position], densities[state.position]
        weights.append(weight)
        done += size
        if told is not None:
            told(size)
    samples, densities, moved = (
        torch.cat(part)[warmup:].transpose(0, 1) for part in zip(*kept, strict=True)
    )
    return Chains(
        samples.contiguous(),
        densities.contiguous(),
        moved.contiguous(),
        torch.stack(rates).mean(0),
        torch.cat(weights),
    )
