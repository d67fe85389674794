"""Seeded subsets: data come sorted by class, so a prefix is never a sample."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_rows", "stratified_rows"]


def random_rows(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` of `n` rows without replacement, in random order.

    Returns:
        int64 `[min(count, n)]`.
    """
    return torch.randperm(n, generator=generator)[:count]


def stratified_rows(
    labels: Tensor, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split rows at random so that every class gives the same share.

    Args:
        labels: int64 `[n]`.
        fraction: Share of each class that is held out, in (0, 1); at least one example of each
            class is, except where that would leave none.
        generator: Source of the shuffle.

    Returns:
        Ascending rows that stay `[n - m]` and rows that are held out `[m]`.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    held = []
    for rows in torch.split(order, torch.unique(labels, return_counts=True)[1].tolist()):
        count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        held.append(rows[:count])
    out = torch.cat(held)
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[out] = False
    return stays.nonzero().flatten(), out.sort().values
