"""A learned proposal and its chains as plain tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text

__all__ = ["proposal_cards", "proposal_tables"]


def proposal_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return training, chains, modes and bias."""
    found = (_training(body), _chains(body), _modes(body), _bias(body))
    return [table for table in found if table is not None]


def proposal_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of the page."""
    s, modes = section(body, "sampling"), section(body, "modes")
    good = body.get("good") is True
    worst = f"largest of {count_text(s.get('dim'))} coordinates"
    cards = [
        {"title": "Verdict", "big": "good" if good else "not good", "sub": "of all checks"},
        {"title": "R-hat", "big": _digits(s.get("rhat"), 4), "sub": worst},
        {
            "title": "Effective samples",
            "big": count_text(s.get("ess")),
            "sub": f"{_digits(s.get('ess_per_draw'), 3)} per draw, least coordinate",
        },
        {
            "title": "Acceptance",
            "big": _digits(s.get("acceptance"), 3),
            "sub": "says nothing about what the proposal misses",
        },
    ]
    if modes:
        big = f"{count_text(modes.get('visited'))} of {count_text(modes.get('known'))}"
        cards.insert(1, {"title": "Modes", "big": big, "sub": f"TV {_digits(modes.get('tv'), 4)}"})
    return cards


def _digits(node: object, digits: int) -> str:
    value = as_float(node)
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _training(body: Mapping[str, Any]) -> Table | None:
    """Return the first and the last figures of the training."""
    training = section(body, "training")
    rows = rows_of(training, "curve")
    if not rows:
        return None
    out = tuple(
        (
            count_text(row.get("step")),
            figure_text(row.get("objective")),
            _digits(row.get("acceptance"), 3),
        )
        for row in (rows if len(rows) == 1 else (rows[0], rows[len(rows) // 2], rows[-1]))
    )
    note = (
        f"{clean(training.get('family'))} proposal, objective {clean(training.get('objective'))}"
        f" (nats, maximised), {as_float(training.get('seconds')):.3g} s with its walks."
    )
    return Table("Training", (">step", ">objective", ">acceptance"), out, note)


def _chains(body: Mapping[str, Any]) -> Table | None:
    """Return the figures of the final run."""
    s = section(body, "sampling")
    if not s:
        return None
    draws = f"{count_text(s.get('chains'))} chains of {count_text(s.get('draws'))} draws"
    rows = (
        ("acceptance", figure_text(s.get("acceptance"))),
        ("acceptance of chains that moved", _digits(s.get("acceptance_moved"), 3)),
        ("bulk ESS, least coordinate", count_text(s.get("ess"))),
        ("bulk ESS, median coordinate", count_text(s.get("ess_median"))),
        ("ESS per draw, least", _digits(s.get("ess_per_draw"), 3)),
        ("ESS per second, least", count_text(s.get("ess_per_second"))),
        ("R-hat, largest", _digits(s.get("rhat"), 4)),
        ("chains that never moved", count_text(s.get("unmoved"))),
        ("ESS of the weights p/q, per proposal", _digits(s.get("weight_ess_share"), 3)),
        ("shape of their tail (Pareto k)", _digits(s.get("pareto_k"), 2)),
        ("time to sample", f"{as_float(s.get('seconds')):.3g} s"),
    )
    note = f"{draws}, {count_text(s.get('dim'))} coordinates. Bracket: 95% interval over chains."
    return Table("Chains under the frozen proposal", ("", ">value"), rows, note)


def _modes(body: Mapping[str, Any]) -> Table | None:
    """Return the share of each mode against its true weight."""
    modes = section(body, "modes")
    shares, weights = (modes.get(k) for k in ("shares", "weights"))
    if not isinstance(shares, list) or not isinstance(weights, list):
        return None
    rows = tuple(
        (str(i), _digits(100 * as_float(s), 2), _digits(100 * as_float(w), 2))
        for i, (s, w) in enumerate(zip(shares, weights, strict=False))
    )
    note = (
        f"{count_text(modes.get('visited'))} of {count_text(modes.get('known'))} modes, total "
        f"variation {_digits(modes.get('tv'), 4)}, of {count_text(modes.get('n'))} draws that "
        "the proposal made: a chain that stands at its start does not count."
    )
    return Table("Modes", ("mode", ">share, %", ">true, %"), rows, note)


def _bias(body: Mapping[str, Any]) -> Table | None:
    """Return the distance to the reference."""
    bias = section(body, "bias")
    if not bias:
        return None
    coordinate = count_text(bias.get("coordinate"))
    low, high = (_digits(bias.get(f"sd_ratio_{k}"), 3) for k in ("low", "high"))
    rows = (
        ("|mean - reference mean|, largest", f"{_digits(bias.get('largest'), 4)} sd"),
        ("the same, mean over coordinates", f"{_digits(bias.get('mean'), 4)} sd"),
        ("Monte-Carlo error of a mean, largest", f"{_digits(bias.get('error'), 4)} sd"),
        ("that of the reference", f"{_digits(bias.get('reference_error'), 4)} sd"),
        ("sd / reference sd", f"{low} to {high}"),
    )
    note = f"Reference: {clean(bias.get('reference'))}. Largest at coordinate {coordinate}."
    return Table("Bias", ("", ">value"), rows, note)
