"""Ways to predict, side by side on the same inputs: figures, detection, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bnnkit.metrics import (
    AUPR,
    AURC,
    AUROC,
    FPR95,
    aurc,
    auroc_interval,
    detection,
    ece,
    entropy_each,
    paired_auroc_difference,
    reliability,
    risk_coverage,
    thin,
)
from bnnkit.run.evaluate import compare, measure, measure_equal_mass
from bnnkit.run.uncertainty.answers import Answers
from bnnkit.spec import Quantity

__all__ = ["Way", "curves", "method_rows", "verdict"]

_POINTS = 200


@dataclass(frozen=True)
class Way:
    """One way to predict.

    Args:
        name: What programs call it.
        label: What people read.
        answers: On the inputs that everything is measured on.
        reference: Those of plain batch norm to the same inputs.
        outside: On each set of another domain.
        temperature: That was applied; None where none was.
        delivered: Whether this is what the run writes.
        held: On the inputs that temperatures were fitted to, where those were set aside.
    """

    name: str
    label: str
    answers: Answers
    reference: Answers
    outside: Mapping[str, Answers] = field(default_factory=dict)
    temperature: float | None = None
    delivered: bool = False
    held: Answers | None = None


def method_rows(ways: Sequence[Way]) -> list[dict[str, Any]]:
    """Return the report section `methods`; the first way is the reference of the others."""
    first = ways[0]
    return [_row(way, first, i == 0) for i, way in enumerate(ways)]


def _row(way: Way, first: Way, is_first: bool) -> dict[str, Any]:
    found, before = way.answers.predictions, way.reference.predictions
    mass = measure_equal_mass(found, None if is_first else before)
    row: dict[str, Any] = {
        "name": way.name,
        "label": way.label,
        "samples": way.answers.samples,
        "delivered": way.delivered,
        "temperature": way.temperature,
        "n": len(found),
        **measure(found),
        "ece_equal_mass": mass.pop("ece_equal_mass"),
    }
    if not is_first:
        row["paired"] = {**compare(before, found), **mass}
    if way.outside:
        row["ood"] = {
            name: _detected(way.answers, answers, first, name, is_first)
            for name, answers in way.outside.items()
        }
    return row


def _scores(answers: Answers) -> dict[str, Tensor]:
    """Return what grows with doubt: the entropy and, of several samples, its untempered parts."""
    out = {"entropy": entropy_each(answers.log_probs)}
    for key in ("expected_entropy", "mutual_information"):
        values = getattr(answers, key)
        if values is not None:
            out[key] = values
    return out


def _detected(
    inside: Answers, outside: Answers, first: Way, name: str, is_first: bool
) -> dict[str, Any]:
    """Measure how well each score tells outside from inside, in % and points."""
    scores = _scores(inside)
    out: dict[str, Any] = {}
    theirs = _scores(outside)
    n = len(inside.labels) + len(outside.labels)
    for key, score in scores.items():
        found = detection(score, theirs[key])
        area = auroc_interval(score, theirs[key])
        out[key] = {
            AUROC: Quantity(100 * area["value"], "%", n, 100 * area["low"], 100 * area["high"]),
            AUPR: Quantity(100 * found[AUPR], "%", n),
            FPR95: Quantity(100 * found[FPR95], "%", n),
        }
    if not is_first and name in first.outside:
        before = (
            entropy_each(first.answers.log_probs),
            entropy_each(first.outside[name].log_probs),
        )
        for key in [k for k in ("entropy", "expected_entropy") if k in scores]:
            d = paired_auroc_difference(*before, scores[key], theirs[key])
            rise = "auroc_rise" if key == "entropy" else f"auroc_rise_{key}"
            out[rise] = Quantity(100 * d["value"], "points", n, 100 * d["low"], 100 * d["high"])
    return out


def curves(ways: Sequence[Way], classes: int) -> dict[str, Any]:
    """Return the sections `reliability`, `risk_coverage` and `entropy_cdf`."""
    out: dict[str, list[Any]] = {"reliability": [], "risk_coverage": [], "entropy_cdf": []}
    for way in ways:
        p, y = way.answers.log_probs, way.answers.labels
        bins = reliability(p, y)
        out["reliability"].append(
            {
                "name": way.label,
                "ece": 100 * ece(p, y)["ece"],
                "bins": [
                    {"confidence": c, "accuracy": a, "n": n}
                    for c, a, n in zip(
                        bins.confidence.tolist(), bins.accuracy.tolist(),
                        bins.inputs.tolist(), strict=True,
                    )
                    if n
                ],
            }
        )  # fmt: skip
        coverage, risk = thin(*risk_coverage(p, y), points=_POINTS)
        out["risk_coverage"].append(
            {
                "name": way.label,
                "coverage": coverage.tolist(),
                "risk": (100 * risk).tolist(),
                "aurc": Quantity(100 * aurc(p, y)[AURC], "%", len(y)),
            }
        )
        sets = [("test", way.answers, True), *((n, a, False) for n, a in way.outside.items())]
        for name, answers, inside in sets:
            out["entropy_cdf"].append(
                {"name": way.label, "set": name, "inside": inside}
                | _cdf(entropy_each(answers.log_probs), classes)
            )
    return out


def _cdf(values: Tensor, classes: int) -> dict[str, list[float]]:
    """Return the empirical distribution of entropies on a grid from 0 to log k."""
    grid = torch.linspace(0, math.log(classes), _POINTS, dtype=torch.float64)
    below = torch.searchsorted(values.sort().values, grid, right=True).double() / len(values)
    return {"entropy": grid.tolist(), "cdf": below.tolist()}


def verdict(ways: Sequence[Way], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what somebody who decides should read first."""
    by_name = {way.name: (way, row) for way, row in zip(ways, rows, strict=True)}
    delivered = next(i for i, way in enumerate(ways) if way.delivered)
    way, row = ways[delivered], rows[delivered]
    rise = row["paired"]["nll_rise"]
    better, worse = rise.high < 0, rise.low > 0
    said = "better than" if better else "worse than" if worse else "not told apart from"
    lines = [
        f"{way.label[:1].upper()}{way.label[1:]} is {said} plain batch norm in log-loss "
        f"({rise.value:+.4f} nats [{rise.low:+.4f}, {rise.high:+.4f}])."
    ]
    alone = by_name.get("temperature")
    if alone is not None and way.name != "temperature":
        difference = compare(alone[0].answers.predictions, way.answers.predictions)["nll_rise"]
        gap = f"{difference.value:+.4f} nats [{difference.low:+.4f}, {difference.high:+.4f}]"
        if difference.low is not None and difference.low > 0:
            lines.append(
                f"A temperature alone ({alone[0].temperature:.2f}) wins: the noise costs {gap} "
                f"against it{_passes(way, ' and {} passes in place of one')}. Divide the logits "
                "and leave the noise out, unless its uncertainty serves you."
            )
        elif difference.high is not None and difference.high < 0:
            lines.append(f"It also beats a temperature alone, by {gap}.")
        else:
            lines.append(
                f"A temperature alone ({alone[0].temperature:.2f}) is not told apart from it "
                f"({gap}){_passes(way, ' at one pass in place of {}')}."
            )
    return lines + _detection_verdict(way, row)


def _passes(way: Way, text: str) -> str:
    """Say what an average costs; nothing where there is none."""
    return text.format(way.answers.samples) if way.answers.samples > 1 else ""


def _detection_verdict(way: Way, row: Mapping[str, Any]) -> list[str]:
    """Say where the averaged entropy detects another domain worse than plain batch norm does."""
    lines = []
    for name, found in row.get("ood", {}).items():
        rise, other = found.get("auroc_rise"), found.get("auroc_rise_expected_entropy")
        if rise is None or not rise.high < 0:
            continue
        line = (
            f"The entropy of {way.label} tells {name} apart worse than that of plain batch norm "
            f"({rise.value:+.2f} points of AUROC [{rise.low:+.2f}, {rise.high:+.2f}])"
        )
        if other is not None and other.value > rise.value:
            line += (
                f"; the expected entropy of a sample is the better score ({other.value:+.2f} "
                f"points [{other.low:+.2f}, {other.high:+.2f}])"
            )
        lines.append(line + ".")
    return lines
