"""What the final run says: acceptance, sample size, R-hat, modes, bias, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.accept.independent import weight_ess
from bnnkit.bayes.chain_diagnostics import bulk_ess, mean_ess, rhat
from bnnkit.bayes.pareto import pareto_shape
from bnnkit.methods.proposals.sampling import Chains
from bnnkit.methods.proposals.targets import Modes, Reference
from bnnkit.metrics.interval import mean_interval
from bnnkit.spec.report import Quantity

__all__ = ["Assessment", "assess"]

RHAT, ESS, PARETO, MODE_TV = 1.01, 400.0, 0.7, 0.05
"""Limits of the verdict: Vehtari et al. 2021 (R-hat, ESS) and 2024 (shape k); ours for modes."""

_HIGH = 0.4  # an acceptance that by itself would look well
_LATE = 0.1  # of the draws: a chain that first moves after them was as good as stuck
_FOUND = 0.1  # of a mode's weight: with less it counts as missed


@dataclass(frozen=True)
class Assessment:
    """The figures of a run.

    Args:
        sampling: Acceptance, ESS, R-hat, unmoved chains and weights.
        modes: Share of each known mode; empty where none is known.
        bias: Distance to the reference; empty where there is none.
        good: Whether nothing that was checked speaks against the samples.
        sentences: Why, and what was checked.
    """

    sampling: dict[str, Any]
    modes: dict[str, Any]
    bias: dict[str, Any]
    good: bool
    sentences: list[str]


def assess(
    chains: Chains,
    *,
    seconds: float,
    modes: Modes | None,
    reference: Reference | None,
    checked: str,
) -> Assessment:
    """Judge a run by everything that is known, never by acceptance alone.

    Args:
        chains: The run.
        seconds: How long it took.
        modes: The target's modes, where they are known.
        reference: Its moments, where they are known.
        checked: How the starts were found, for the verdict.
    """
    sampling = _sampling(chains, seconds)
    found = {} if modes is None else mode_shares(chains, modes)
    bias = {} if reference is None else _bias(chains.samples, reference)
    against = [*_mode_faults(found), *_chain_faults(sampling), *_bias_faults(bias)]
    count = chains.samples.shape[0]
    if against:
        sentences = [_although(sampling) + "; ".join(against) + "."]
    else:
        sentences = [f"Nothing speaks against these samples: {_praise(sampling, found, bias)}."]
    sentences.append(
        f"Checked: {count} chains from {checked}; R-hat between them, the tail of the weights"
        + (", the shares of the known modes" if found else "")
        + (", the means against the reference" if bias else "")
        + "."
        + ("" if found else " A mode that no walk came upon stays unknown.")
    )
    if sampling["pareto_k"] > PARETO:
        sentences.append(
            f"The tail of the weights has shape {sampling['pareto_k']:.2f}, above {PARETO}: now "
            "and then a chain will stand still for long, so effective sizes vary between runs."
        )
    return Assessment(sampling, found, bias, not against, sentences)


def _sampling(chains: Chains, seconds: float) -> dict[str, Any]:
    """Return the figures that need nothing but the chains."""
    count, draws, _ = chains.samples.shape
    ess, shrink = bulk_ess(chains.samples), rhat(chains.samples)
    # NaN: a coordinate that never changed has told nothing
    least = float(ess.nan_to_num(nan=0.0).min())
    low, high = mean_interval(chains.acceptance)
    unmoved = ~chains.moved[:, -1]
    rates = chains.acceptance
    late = ~chains.moved[:, min(draws - 1, int(_LATE * draws))]
    return {
        "chains": count,
        "draws": draws,
        "acceptance": Quantity(
            float(chains.acceptance.mean()), "", count * draws, max(low, 0.0), min(high, 1.0)
        ),
        "acceptance_moved": float(rates[~unmoved].mean()) if bool((~unmoved).any()) else 0.0,
        "ess": least,
        "ess_median": float(ess.nan_to_num(nan=0.0).median()),
        "ess_per_draw": least / (count * draws),
        "ess_per_second": least / seconds,
        "rhat": float(shrink.nan_to_num(nan=math.inf).max()),
        "worst_coordinate": int(shrink.nan_to_num(nan=math.inf).argmax()),
        "unmoved": int(unmoved.sum()),
        "late": int(late.sum()),
        "weight_ess_share": weight_ess(chains.log_weight) / len(chains.log_weight),
        "pareto_k": pareto_shape(chains.log_weight),
        "seconds": seconds,
    }


def _although(sampling: dict[str, Any]) -> str:
    """Begin the sentence about a run that is not good."""
    rate = sampling["acceptance_moved"]
    if rate > _HIGH:
        return f"Not good, although {rate:.0%} of proposals are accepted by the chains that move: "
    return "Not good: "


def mode_shares(chains: Chains, modes: Modes) -> dict[str, Any]:
    """Return the share of each mode among the draws that the proposal made.

    A chain that still stands where it was put says where walks went, not what the proposal finds:
    counted too, starts all around would make up for a proposal that knows one mode.

    Args:
        chains: The run.
        modes: Centres and true weights.
    """
    own = chains.samples[chains.moved]
    nearest = torch.cdist(own, modes.centres).argmin(1) if len(own) else torch.empty(0).long()
    shares = torch.bincount(nearest, minlength=len(modes.weights)).double() / max(1, len(own))
    weights = modes.weights.double()
    return {
        "shares": shares.tolist(),
        "weights": weights.tolist(),
        "visited": int((shares >= _FOUND * weights).sum()),
        "known": len(weights),
        "tv": float((shares - weights).abs().sum() / 2),
        "n": len(own),
    }


def _bias(samples: Tensor, reference: Reference) -> dict[str, Any]:
    """Return the largest distance of a mean from the reference's, in its deviations."""
    x = samples.double()
    sd = reference.sd.double()
    gap = (x.mean(dim=(0, 1)) - reference.mean.double()).abs() / sd
    error = x.flatten(0, 1).std(dim=0) / sd / mean_ess(samples).sqrt()
    return {
        "largest": float(gap.max()),
        "mean": float(gap.mean()),
        "coordinate": int(gap.argmax()),
        "sd_ratio_low": float((x.flatten(0, 1).std(dim=0) / sd).min()),
        "sd_ratio_high": float((x.flatten(0, 1).std(dim=0) / sd).max()),
        "error": float(error.nan_to_num(nan=math.inf).max()),
        "reference_error": reference.error,
        "reference": reference.source,
    }


def _mode_faults(found: dict[str, Any]) -> list[str]:
    """Say what is wrong with the shares of known modes."""
    if not found:
        return []
    if found["visited"] < found["known"]:
        missed = found["known"] - found["visited"]
        return [
            f"the proposal misses {missed} of {found['known']} modes "
            f"(total variation of the shares {found['tv']:.3f})"
        ]
    if found["tv"] > MODE_TV:
        return [f"the shares of the modes are off by a total variation of {found['tv']:.3f}"]
    return []


def _chain_faults(s: dict[str, Any]) -> list[str]:
    """Say what is wrong with the chains."""
    out = []
    if s["unmoved"]:
        out.append(
            f"{s['unmoved']} of {s['chains']} chains never left their start, so the density there "
            "is far above the proposal's: it misses that part"
        )
    elif s["late"]:
        out.append(f"{s['late']} of {s['chains']} chains stood for a tenth of the run or more")
    if s["rhat"] > RHAT:
        out.append(f"R-hat is {s['rhat']:.4g} (coordinate {s['worst_coordinate']}), above {RHAT}")
    if s["ess"] < ESS:
        out.append(f"the least bulk ESS is {s['ess']:.0f}, below {ESS:.0f}")
    return out


def _bias_faults(bias: dict[str, Any]) -> list[str]:
    """Say where a mean is off by more than Monte-Carlo error and a tenth of a deviation."""
    if not bias:
        return []
    noise = 4 * math.hypot(bias["error"], bias["reference_error"])
    if bias["largest"] <= max(0.1, noise):
        return []
    return [
        f"the mean of coordinate {bias['coordinate']} is {bias['largest']:.2f} sd from the "
        f"reference ({bias['reference']})"
    ]


def _praise(s: dict[str, Any], found: dict[str, Any], bias: dict[str, Any]) -> str:
    """Name the figures that a good run stands on."""
    parts = [f"R-hat {s['rhat']:.4f}, least bulk ESS {s['ess']:,.0f}, every chain moved"]
    if found:
        parts.append(f"{found['visited']} of {found['known']} modes with TV {found['tv']:.3f}")
    if bias:
        parts.append(f"means within {bias['largest']:.3f} sd of the reference")
    return ", ".join(parts)
