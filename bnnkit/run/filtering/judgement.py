"""What a discriminator's held-out scores say, and the sentences that sum a run up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bnnkit.bayes.accept.bounds import tv_bound
from bnnkit.methods.mh.calibrate import isotonic_knots
from bnnkit.methods.mh.scores import CalibratedScore
from bnnkit.metrics import ECE, auroc_interval, ece, mean_interval, nll_each, reliability
from bnnkit.run.filtering.choose import Chosen
from bnnkit.run.filtering.job import Job
from bnnkit.spec import Quantity

__all__ = ["bound_section", "held_out", "verdict"]

_PAIRS = 2000
_RARE = 0.1
"""Acceptance from real images below which they hardly overlap with generated ones."""


def _intercept(real: Tensor, fake: Tensor) -> float:
    """Return the intercept that makes logits calibrated on average; chains do not need one."""
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = (torch.sigmoid(real + middle).mean() + torch.sigmoid(fake + middle).mean()) / 2
        low, high = (middle, high) if mean < 0.5 else (low, middle)
    return (low + high) / 2


def held_out(chosen: Chosen) -> dict[str, Any]:
    """Return AUC, NLL, ECE and reliability of real against generated, on held-out images.

    The scores are log p/q up to a constant: the intercept is fitted so that the mean probability
    is that of the two sides.
    """
    real, fake = (s.nan_to_num(neginf=-60, posinf=60) for s in (chosen.held, chosen.fresh))
    shift = _intercept(real, fake)
    logits = torch.cat([real, fake]) + shift
    both = torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], 1)
    labels = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).long()
    auc = auroc_interval(fake, real)  # real images should have the higher ratio
    per_input = nll_each(both, labels)
    mean, (low, high) = float(per_input.mean()), mean_interval(per_input)
    return {
        "auc": Quantity(100 * auc["value"], "%", len(labels), 100 * auc["low"], 100 * auc["high"]),
        "nll": Quantity(mean, "nats", len(labels), low, high),
        "ece": Quantity(100 * ece(both, labels)[ECE], "%", len(labels)),
        "reliability": [_bins(chosen.name, both, labels)],
    }


def _bins(name: str, both: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return a reliability diagram as the report holds it."""
    found = reliability(both, labels)
    rows = zip(found.confidence, found.accuracy, found.inputs, strict=True)
    return {
        "name": name,
        "ece": 100 * ece(both, labels)[ECE],
        "bins": [
            {"confidence": float(c), "accuracy": float(a), "n": int(n)}
            for c, a, n in rows
            if int(n)
        ],
    }


def bound_section(job: Job, chosen: Chosen) -> dict[str, Any]:
    """Return the loss of eq. 28 on held-out pairs, and what the theorem makes of it.

    The divergence that the bound needs is estimated with scores that are calibrated on the other
    half of the held-out images.
    """
    config = job.config
    half = len(chosen.held) // 2
    real, fake = chosen.held[half:][:_PAIRS], chosen.fresh[half:][:_PAIRS]
    edge = -math.log(config.floor)  # no ratio of two numbers in [b, 1] is larger
    a = (fake[None, :] - real[:, None]).nan_to_num(nan=-edge).clamp(-edge, edge)
    loss = float((a + a.exp()).mean())
    knots = isotonic_knots(chosen.held[:half], chosen.fresh[:half])
    map_ = CalibratedScore(torch.nn.Identity(), knots=knots)
    divergence = float(map_.calibrate(real).mean() - map_.calibrate(fake).mean())
    bound = tv_bound(loss, divergence, config.floor)
    return {
        "loss": bound.loss,
        "b": bound.floor,
        "prefactor": bound.prefactor,
        "divergence": divergence,
        "gap": bound.gap,
        "bound": bound.bound,
        "vacuous": bound.vacuous,
    }


def verdict(job: Job, rows: Sequence[Mapping[str, Any]], chain: Mapping[str, Any]) -> list[str]:
    """Say in words whether the filter was worth it."""
    raw = next(row for row in rows if row["name"] == "raw")
    made = next(row for row in rows if row["delivered"])
    out = []
    for judge in job.judges:
        before, after = (row["metrics"][judge.name]["fid"] for row in (raw, made))
        floor = rows[-1]["metrics"][judge.name]["fid"]
        change = "falls" if after < before else "rises"
        flatter = " (features that the filter itself used)" if judge.own else ""
        out.append(
            f"The Frechet distance in {judge.name}{flatter} {change} from {before:.3g} to "
            f"{after:.3g} (real images: {floor:.2g})."
        )
    worse = [
        judge.name
        for judge in job.judges
        if made["metrics"][judge.name]["fid"] > raw["metrics"][judge.name]["fid"]
    ]
    if worse:
        out.append(f"Do not use these samples: they are worse than the raw ones by {worse[0]}.")
    if (share := float(chain["unique_share"])) < 0.7:
        out.append(
            f"Only {share:.0%} of the samples are different images: use a larger --bank or fewer "
            "samples."
        )
    rate = float(chain.get("acceptance_from_real", 1.0))
    if rate < _RARE:
        out.append(
            f"Only {rate:.1%} of proposals are accepted at real images: the two hardly overlap, "
            "which no filter mends."
        )
    if (unmoved := float(chain["unmoved_share"])) > 0.05:
        out.append(
            f"{unmoved:.1%} of the chains had not left their real start after "
            f"{chain['length']} proposals and were begun again: longer chains would be closer."
        )
    config = job.config
    by_distance = config.calibrate == "temperature" and config.temperature is None
    if by_distance and config.proposal != "encoder":
        out.append(
            "The temperature was chosen by distances of held-out training images in these "
            "features; the test images had no part in it."
        )
    return out
