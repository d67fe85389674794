"""The gates that a measured run must hold, as its owner states them; stdlib only."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from bnnkit.errors import UsageError, did_you_mean

__all__ = ["GateOptions", "parse_setting"]

_SETTING_KEYS = ("runtime", "device", "threads", "batch")
_SIGNED = {"max_error_rise", "max_nll_rise", "min_elbo_gain"}


def parse_setting(text: str) -> dict[str, str]:
    """Read `runtime=onnxruntime,batch=1`, the latency rows that a speedup is judged at.

    Raises:
        UsageError: A part is not `key=value`, its key is not known, or it is given twice.

    >>> parse_setting("runtime=onnxruntime,batch=1")
    {'runtime': 'onnxruntime', 'batch': '1'}
    """
    out: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not value:
            raise UsageError(
                "Reading --speedup-at",
                repr(part),
                "each part is key=value",
                "Use --speedup-at runtime=onnxruntime,batch=1,threads=1,device=cpu.",
            )
        if key not in _SETTING_KEYS:
            raise UsageError(
                "Reading --speedup-at",
                f"the key {key!r}",
                "no latency is measured by it",
                did_you_mean(key, _SETTING_KEYS),
            )
        if key in out:
            raise UsageError(
                "Reading --speedup-at",
                f"{key!r} twice ({out[key]!r} and {value!r})",
                "a setting has one value for each key",
                "Leave the key out to judge the worst of all its values.",
            )
        out[key] = value
    return out


@dataclass(frozen=True)
class GateOptions:
    """Limits that a report is judged by; None leaves a gate out.

    Args:
        max_error_rise: Most percentage points of error that the slim model may add, paired.
        max_nll_rise: Most nats per example that it may add, paired.
        max_error: Highest error of the slim model, in %.
        max_nll: Highest negative log-likelihood per example, in nats.
        max_ece: Highest expected calibration error, in %.
        max_brier: Highest Brier score.
        min_speedup: Least original / slim latency at the worst measured setting.
        min_mac_ratio: Least original / slim multiply-accumulates.
        min_param_ratio: Least original / slim parameters.
        min_size_ratio: Least original / slim file bytes.
        max_export_diff: Largest relative difference of any exported form.
        min_elbo_gain: Least nats per datum that refinement adds to the evidence bound, paired.
        max_fid: Largest Frechet distance of filtered samples, in the first extractor's features.
        min_acceptance: Least share of proposals that chains accept; only beside `max_rhat`.
        min_ess_per_draw: Least bulk effective sample size of a draw, at the worst coordinate.
        max_rhat: Largest R-hat of any coordinate.
        speedup_at: `key=value,...` narrowing `min_speedup` to some settings.
        strict: Whether an inconclusive gate stops the run (exit code 5).

    Raises:
        UsageError: A limit is not a finite number, or has an impossible sign.
    """

    max_error_rise: float | None = None
    max_nll_rise: float | None = None
    max_error: float | None = None
    max_nll: float | None = None
    max_ece: float | None = None
    max_brier: float | None = None
    min_speedup: float | None = None
    min_mac_ratio: float | None = None
    min_param_ratio: float | None = None
    min_size_ratio: float | None = None
    max_export_diff: float | None = None
    min_elbo_gain: float | None = None
    max_fid: float | None = None
    min_acceptance: float | None = None
    min_ess_per_draw: float | None = None
    max_rhat: float | None = None
    speedup_at: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            option = "--" + name.replace("_", "-")
            if not math.isfinite(limit):
                raise UsageError(f"Reading {option}", repr(limit), "a limit is a finite number")
            if limit < 0 and name not in _SIGNED:
                raise UsageError(
                    f"Reading {option}",
                    repr(limit),
                    "the figure is never negative, so the limit cannot be",
                )
        if self.min_acceptance is not None and self.max_rhat is None:
            raise UsageError(
                "Reading --min-acceptance",
                repr(self.min_acceptance),
                "a proposal that knows one mode of many is accepted often too",
                "Add --max-rhat 1.01, which chains started far apart do not pass then.",
            )
        if self.speedup_at is not None:
            if self.min_speedup is None:
                raise UsageError(
                    "Reading --speedup-at",
                    repr(self.speedup_at),
                    "it narrows --min-speedup, which was not given",
                    "Add --min-speedup 1.5.",
                )
            parse_setting(self.speedup_at)

    def limits(self) -> dict[str, float]:
        """Return the limits that were given, by field name, in order."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in found.items() if k[:4] in ("max_", "min_") and v is not None}
