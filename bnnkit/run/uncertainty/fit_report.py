"""How well a fitted distribution describes the batch statistics that it was fitted to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.normality import (
    ks_distance,
    layer_correlation,
    lilliefors_null,
    rejected_share,
)
from bnnkit.layers.statistics_samplers import StatisticsSampler
from bnnkit.methods.sbn import Collected

__all__ = ["fit_section"]

_BINS = 40


def fit_section(
    collected: Collected, sampler: StatisticsSampler, name: str, seconds: float, seed: int
) -> dict[str, Any]:
    """Return the report section `fit`.

    Args:
        collected: The statistics.
        sampler: The distribution that was fitted.
        name: Its name.
        seconds: What collecting and fitting took.
        seed: Seed of the simulated null distribution.
    """
    draws = collected.draws
    generator = torch.Generator().manual_seed(seed)
    null = lilliefors_null(len(draws), generator=generator)
    distances = ks_distance(draws)
    known = distances[~distances.isnan()]
    found: dict[str, Any] = {
        "sampler": name,
        "batch_size": collected.batch_size,
        "batches": len(draws),
        "layers": len(collected.sites),
        "channels": sum(collected.channels),
        "statistics": draws.shape[1],
        "store_bytes": sum(b.numel() * b.element_size() for b in sampler.buffers()),
        "replay_bytes": draws.numel() * draws.element_size(),
        "seconds": seconds,
        "correlation": {
            "layers": list(collected.sites),
            "matrix": layer_correlation(draws, collected.sizes).tolist(),
        },
    }
    if len(known):
        found["ks"] = {
            "median": float(known.median()),
            "null_median": float(null.median()),
            "null_95": float(null.quantile(0.95)),
            "rejected_share": 100 * rejected_share(distances, null),
            "n": len(known),
        }
        found["histogram"] = _histogram(distances, null, collected.channels)
    return found


def _histogram(distances: Tensor, null: Tensor, channels: tuple[int, ...]) -> dict[str, Any]:
    """Count distances of the means and of the log deviations, and what the null expects."""
    parts = [p.chunk(2) for p in torch.split(distances, [2 * c for c in channels])]
    means, deviations = (torch.cat([p[i] for p in parts]) for i in (0, 1))
    known = distances[~distances.isnan()]
    high = float(torch.cat([known, null]).quantile(0.995)) * 1.05 if len(known) < 1 << 23 else 1.0
    edges = torch.linspace(0, high, _BINS + 1, dtype=torch.float64)

    def count(values: Tensor) -> Tensor:
        values = values[~values.isnan()].double().clamp(max=high)
        return torch.histogram(values, edges).hist

    expected = count(null) * (len(known) / 2 / len(null))
    return {
        "edges": edges.tolist(),
        "means": count(means).tolist(),
        "deviations": count(deviations).tolist(),
        "null": expected.tolist(),
    }
