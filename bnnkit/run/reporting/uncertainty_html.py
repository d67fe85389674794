"""What the page of a stochastic net shows: its verdict figures and its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting import uncertainty_plots as plots
from bnnkit.run.reporting.canvas import SERIES
from bnnkit.run.reporting.digest import rows_of, section
from bnnkit.run.reporting.uncertainty_digest import (
    fit_table,
    label_of,
    methods_table,
    ood_names,
    ood_tables,
)
from bnnkit.run.reporting.wording import (
    as_float,
    clean,
    figure_text,
    n_text,
    setting_text,
    shorten,
)

__all__ = ["cards", "pictures"]

_FIGURES = (
    ("error", "Error", " %", 2),
    ("nll", "Log-loss, nats", "", 3),
    ("ece", "Calibration error", " %", 2),
)


def cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures: quality before and after, out of domain, and what it costs."""
    original, new = section(body, "original"), section(body, "slim")
    paired = section(body, "paired")
    out = []
    for key, title, unit, digits in _FIGURES:
        before, after = as_float(original.get(key)), as_float(new.get(key))
        if math.isnan(after):
            continue
        start = "" if math.isnan(before) else f"{before:.{digits}f} → "
        rise = paired.get(f"{key}_rise")
        sub = f"{_unbroken(rise)}, n\u00a0=\u00a0{n_text(rise)}" if rise else ""
        out.append({"title": title, "big": f"{start}{after:.{digits}f}{unit}", "sub": sub})
    return out + _ood_cards(body) + _cost_card(body)


def _unbroken(rise: object) -> str:
    """Write a change whose interval stays on one line."""
    return figure_text(rise, sign=True).replace(", ", ",\u00a0")


def _ood_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return AUROC by entropy of the first and the delivered method on the first data set."""
    rows = rows_of(body, "methods")
    delivered = [row for row in rows if row.get("delivered") is True]
    for name in ood_names(body) if delivered else ():
        first, last = (section(section(row, "ood"), name) for row in (rows[0], delivered[0]))
        before, after = (as_float(section(s, "entropy").get("auroc")) for s in (first, last))
        if math.isnan(before) or math.isnan(after):
            continue
        rise = last.get("auroc_rise")
        sub = f"AUROC by entropy, {_unbroken(rise)}" if rise else "AUROC by entropy"
        title = f"Out of domain: {shorten(name, 24)}"
        return [{"title": title, "big": f"{before:.1f} → {after:.1f} %", "sub": sub}]
    return []


def _cost_card(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return how many times the original's time a prediction takes, at best and at worst.

    Of several numbers of samples the largest counts: the last model of a setting.
    """
    found = []
    for row in rows_of(body, "latency"):
        for model in rows_of(row, "models")[1:][-1:]:
            who = f"{clean(model.get('name'))}, "
            ratio = as_float(model.get("speedup"))
            if ratio > 0 and math.isfinite(ratio):
                found.append((1 / ratio, who + setting_text(row)))
    if not found:
        return []
    (best, where), (worst, there) = min(found), max(found)
    sub = f"the original's time at {where}"
    if len(found) > 1:
        sub += f"; worst of {len(found)}: {worst:.2f}x at {there}"
    return [{"title": "Cost of a prediction", "big": f"{best:.2f}x", "sub": sub}]


def pictures(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of uncertainty draws; empty where the report has none."""
    colours = _Colours(body)
    return {
        "methods": methods_table(body),
        "ood": ood_tables(body),
        "reliability": _reliability(body),
        "risk": _risk(body, colours),
        "entropy": _entropy(body, colours),
        "fit": fit_table(body),
        "fit_histogram": _fit_histogram(section(body, "fit")),
        "correlation": _correlation(section(body, "fit")),
    }


class _Colours:
    """One colour a method in all charts: in the order of the table, then of appearance."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        methods = rows_of(body, "methods")
        curves = [*rows_of(body, "risk_coverage"), *rows_of(body, "entropy_cdf")]
        labels = dict.fromkeys(label_of(row) for row in (*methods, *curves))
        drawn = {label_of(row) for row in curves}
        # only what is drawn takes a colour: there are fewer of them than there may be methods
        kept = [name for name in labels if name in drawn]
        self._of = {name: i % len(SERIES) for i, name in enumerate(kept)}
        self._strong = {label_of(row) for row in methods if row.get("delivered") is True}

    def swatch(self, row: Mapping[str, Any], text: str = "") -> dict[str, Any]:
        """Return how a method is marked in a legend."""
        name = label_of(row)
        strong = name in self._strong
        return {"name": name, "colour": self._of[name], "strong": strong, "text": text}

    def line(self, row: Mapping[str, Any], x: str, y: str, *, dashed: bool = False) -> plots.Line:
        """Return a curve of the report as a line to draw."""
        xs, ys = (v if isinstance(v := row.get(key), list) else [] for key in (x, y))
        name = label_of(row)
        return plots.Line(self._of[name], xs, ys, dashed=dashed, strong=name in self._strong)


def _reliability(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a panel for each method."""
    panels = []
    for i, row in enumerate(rows_of(body, "reliability")):
        if bins := rows_of(row, "bins"):
            name, ece = label_of(row), as_float(row.get("ece"))
            text = "" if math.isnan(ece) else f"ECE {ece:.2f} %"
            svg = plots.reliability_panel(bins, f"reliability{i}", f"Reliability of {name}")
            panels.append({"name": name, "text": text, "svg": svg})
    return panels


def _risk(body: Mapping[str, Any], colours: _Colours) -> dict[str, Any] | None:
    """Return the overlaid curves and their legend."""
    rows = rows_of(body, "risk_coverage")
    lines = [colours.line(row, "coverage", "risk") for row in rows]
    if not any(line.x and line.y for line in lines):
        return None
    areas = [figure_text(row.get("aurc")) for row in rows]
    legend = [
        colours.swatch(row, "" if area == "-" else f"AURC {area}")
        for row, area in zip(rows, areas, strict=True)
    ]
    svg = plots.risk_coverage_panel(lines, "risk", f"Risk over coverage of {len(rows)} methods")
    return {"lines": legend, "svg": svg}


def _entropy(body: Mapping[str, Any], colours: _Colours) -> dict[str, Any] | None:
    """Return a panel for each data set outside the domain, those inside in every one."""
    rows = [r for r in rows_of(body, "entropy_cdf") if r.get("entropy") and r.get("cdf")]
    drawn = [
        (row, colours.line(row, "entropy", "cdf", dashed=row.get("inside") is not True))
        for row in rows
    ]
    values = [v for _, line in drawn for v in map(as_float, line.x) if math.isfinite(v)]
    if not values:
        return None
    inside = [(row, line) for row, line in drawn if not line.dashed]
    sets = dict.fromkeys(clean(row.get("set", "")) for row, line in drawn if line.dashed)
    home = ", ".join(dict.fromkeys(clean(row.get("set", "")) for row, _ in inside))
    panels = []
    for i, name in enumerate(sets or [""]):
        outside = [
            line for row, line in drawn if line.dashed and clean(row.get("set", "")) == name
        ]
        lines = [line for _, line in inside] + outside
        title = " against ".join(part for part in (home, name) if part)
        svg = plots.entropy_panel(lines, max(values), f"entropy{i}", f"Entropy: {title}")
        panels.append({"name": title, "svg": svg})
    swatches = {label_of(row): colours.swatch(row) for row in rows}
    return {"lines": list(swatches.values()), "panels": panels, "outside": bool(sets)}


def _fit_histogram(fit: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the histogram of the distances, None where it has no edges."""
    found = section(fit, "histogram")
    edges, means, deviations, null = (
        v if isinstance(v := found.get(key), list) else []
        for key in ("edges", "means", "deviations", "null")
    )
    if len(edges) < 2 or not (means or deviations):
        return None
    limit = as_float(section(fit, "ks").get("null_95"))
    svg = plots.fit_histogram(edges, means, deviations, null, limit, "ks")
    return {"svg": svg, "limit": math.isfinite(limit)}


def _correlation(fit: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the map and the value of its full colour, None where it is not a square."""
    found = section(fit, "correlation")
    names, matrix = found.get("layers"), found.get("matrix")
    if not (isinstance(matrix, list) and matrix and all(isinstance(r, list) for r in matrix)):
        return None
    square = [[as_float(v) for v in row] for row in matrix]
    if any(len(row) != len(square) for row in square):
        return None
    if not (isinstance(names, list) and len(names) == len(square)):
        names = [""] * len(square)
    most = max((v for row in square for v in row if math.isfinite(v)), default=0.0)
    if not most > 0:
        return None
    return {"svg": plots.correlation_map(names, square, most, "layers"), "most": f"{most:.2g}"}
