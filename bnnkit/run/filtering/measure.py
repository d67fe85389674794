"""How close images are to real ones, in the features of each judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bnnkit.io.features import Features
from bnnkit.metrics.generative import (
    Moments,
    class_shares,
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
    total_variation,
)
from bnnkit.run.filtering.job import Job
from bnnkit.run.filtering.judges import Judge, class_probabilities

__all__ = [
    "Reference",
    "Seen",
    "class_score",
    "distances",
    "look",
    "measure",
    "see_reference",
    "select",
    "unique_share",
]

_NEIGHBOURS = 5000
"""Most images on each side of precision and recall, whose cost grows with the square."""
_SUBSETS, _SUBSET = 20, 1000
_SPLITS, _SPLIT_FROM = 10, 1000


@dataclass(frozen=True)
class Seen:
    """Images as the judges see them.

    Args:
        features: `{judge: [n, d]}`.
        probabilities: Class probabilities `[n, k]` by the first judge that has classes.
    """

    features: Mapping[str, Tensor]
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


@dataclass(frozen=True)
class Reference:
    """Real images that distances are taken from.

    Args:
        seen: What the judges see in them.
        moments: `{judge: moments}`.
        shares: Share of each class, None without classes.
    """

    seen: Seen
    moments: Mapping[str, Moments] = field(default_factory=dict)
    shares: Tensor | None = None


def look(judges: Sequence[Judge], images: Tensor) -> Seen:
    """Read the features of byte images `[n, c, h, w]` with every judge."""
    found: dict[str, Features] = {j.name: j.extractor(images) for j in judges}
    chosen = next((found[j.name] for j in judges if j.classes), None)
    return Seen(
        {name: f.features for name, f in found.items()},
        None if chosen is None else class_probabilities(chosen),
    )


def see_reference(judges: Sequence[Judge], images: Tensor) -> Reference:
    """Read real images once, for all distances to them."""
    seen = look(judges, images)
    shares = None if seen.probabilities is None else class_shares(seen.probabilities)
    return Reference(seen, {n: moments(f) for n, f in seen.features.items()}, shares)


def select(seen: Seen, rows: Tensor) -> Seen:
    """Return what was seen in some rows."""
    p = seen.probabilities
    return Seen({n: f[rows] for n, f in seen.features.items()}, None if p is None else p[rows])


def distances(seen: Seen, reference: Reference) -> dict[str, float]:
    """Return the Fréchet distance in the features of each judge."""
    return {
        name: frechet_distance(moments(features), reference.moments[name])
        for name, features in seen.features.items()
    }


def class_score(probabilities: Tensor) -> tuple[float, float]:
    """Return the Inception score and its deviation over ten splits, one where rows are few."""
    return inception_score(probabilities, _SPLITS if len(probabilities) >= _SPLIT_FROM else 1)


def measure(job: Job, seen: Seen, reference: Reference, *, full: bool) -> dict[str, Any]:
    """Return the report's figures of one way to sample.

    Args:
        job: The run; its seed draws subsets.
        seen: Its images.
        reference: The test images.
        full: Whether kernel distance, precision and recall are worth their time here.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for judge in job.judges:
        features, real = seen.features[judge.name], reference.seen.features[judge.name]
        row: dict[str, Any] = {
            "fid": frechet_distance(moments(features), reference.moments[judge.name])
        }
        if full and min(len(features), len(real)) > 1:
            size = min(_SUBSET, min(len(features), len(real)) // 2)
            mean, sd = kernel_distance(
                features, real, job.random(70), subsets=_SUBSETS, subset_size=size
            )
            row["kid"] = {"value": mean, "sd": sd}
            row["precision"], row["recall"] = precision_recall(
                real[:_NEIGHBOURS], features[:_NEIGHBOURS]
            )
        if judge.classes and seen.probabilities is not None:
            mean, sd = class_score(seen.probabilities)
            row["is"] = {"value": mean, "sd": sd}
        metrics[judge.name] = row
    out: dict[str, Any] = {"n": len(seen), "metrics": metrics}
    if seen.probabilities is not None and reference.shares is not None:
        shares = class_shares(seen.probabilities)
        out["classes"] = [100 * float(s) for s in shares]
        out["class_tv"] = total_variation(shares, reference.shares)
    return out


def unique_share(rows: Tensor) -> float:
    """Return the share of different numbers among bank rows `[n]`."""
    return len(set(rows.tolist())) / max(1, len(rows))
