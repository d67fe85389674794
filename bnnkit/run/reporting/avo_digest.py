"""Chains and flows on an energy as plain tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text

__all__ = ["avo_cards", "avo_tables"]

_COLUMNS = ("method", ">modes", ">TV of weights", ">bound on log Z", ">gap", ">log Z by weights",
            ">ESS share", ">CPU s")  # fmt: skip


def avo_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return the methods side by side, the shares of the modes, and the training under noise."""
    truth = section(body, "truth")
    rows, noisy = rows_of(body, "approximations"), rows_of(body, "robustness")
    tables = []
    if rows:
        note = (
            f"log Z is {_digits(truth.get('log_z'), 4)} by integration; nats. The gap is the "
            "divergence KL(q || f/Z), of a chain in the space of its walks. Bracket: 95% interval."
        )
        tables.append(Table("Approximations", _COLUMNS, tuple(map(_row, rows)), note))
    if shares := _shares(rows, truth):
        tables.append(shares)
    if noisy:
        bias = _digits(section(section(body, "method"), "config").get("bias"), 1)
        note = (
            f"The gradient of log f has noise of mean {bias} towards one side, which fades over "
            "the first half of the training; what is judged is f itself."
        )
        tables.append(Table("Trained with biased noise", _COLUMNS, tuple(map(_row, noisy)), note))
    return tables


def avo_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of the page: modes of the bound against those of annealing."""
    known = count_text(section(body, "truth").get("modes"))
    found = []
    for row in rows_of(body, "approximations"):
        if row.get("method") in ("elbo", "avo", "avo+elbo"):
            big = f"{count_text(row.get('visited'))} of {known} modes"
            sub = (
                f"TV of weights {_digits(row.get('tv'), 3)}, gap {_digits(row.get('gap'), 3)} nats"
            )
            found.append({"title": clean(row.get("method")), "big": big, "sub": sub})
    return found


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one method."""
    return (
        clean(row.get("method")),
        f"{count_text(row.get('visited'))} of {count_text(row.get('known'))}",
        _digits(row.get("tv"), 3),
        figure_text(row.get("bound"), unit=False),
        _digits(row.get("gap"), 3),
        _digits(row.get("log_z"), 3),
        _digits(row.get("ess_share"), 2),
        _digits(row.get("seconds"), 1),
    )


def _shares(rows: list[Mapping[str, Any]], truth: Mapping[str, Any]) -> Table | None:
    """Return the share of draws in each mode; None where there is one mode alone."""
    weights = truth.get("weights")
    if not rows or not isinstance(weights, list) or len(weights) < 2:
        return None
    lines = [("by integration", *(_digits(w, 3) for w in weights))]
    for row in rows:
        shares = row.get("shares")
        if isinstance(shares, list) and len(shares) == len(weights):
            lines.append((clean(row.get("method")), *(_digits(s, 3) for s in shares)))
    columns = ("", *(f">mode {i}" for i in range(len(weights))))
    return Table("Share of draws in each mode", columns, tuple(lines), marked=frozenset({0}))


def _digits(node: object, digits: int) -> str:
    value = as_float(node)
    # rounded first and added to 0, so that no figure is -0.000
    return "-" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"
