"""What a sweep found, as tables: the Pareto table, and the cells that have no figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import (
    as_float,
    bytes_text,
    clean,
    figure_text,
    setting_text,
    shorten,
)

__all__ = ["setting_names", "sweep_table", "sweep_tables", "target_text"]

_MOST_WHY = 300
_MOST_NAMES = 3


def sweep_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return the Pareto table and, where some failed, the cells without figures."""
    return [table for table in (sweep_table(body), _failed_table(body)) if table is not None]


def target_text(target: Mapping[str, Any]) -> str:
    """Write what a cell aims at.

    >>> target_text({"macs": 0.5}), target_text({"error_rise": 1.0}), target_text({})
    ('50 % of MACs', '+1 points', 'none')
    """
    if "macs" in target:
        return f"{100 * as_float(target['macs']):.4g} % of MACs"
    if "size" in target:
        return bytes_text(target["size"])
    if "speedup" in target:
        return f"{as_float(target['speedup']):.4g}x as fast"
    if "error_rise" in target:
        return f"{as_float(target['error_rise']):+.4g} points"
    return "none"


def setting_names(settings: Sequence[Mapping[str, Any]]) -> tuple[list[str], str]:
    """Return what tells the settings apart, and what they have in common.

    >>> setting_names([{"runtime": "torch", "batch": 1}, {"runtime": "torch", "batch": 32}])
    (['batch 1', 'batch 32'], 'torch')
    """
    parts = [setting_text(setting).split(", ") for setting in settings]
    common = [part for part in parts[0] if all(part in other for other in parts)] if parts else []
    names = [", ".join(part for part in own if part not in common) for own in parts]
    return names, ", ".join(common)


def sweep_table(body: Mapping[str, Any]) -> Table | None:
    """Return one row for each method and target, and where it is on a Pareto front."""
    found = section(body, "sweep")
    rows = rows_of(found, "rows")
    if not rows:
        return None
    settings = rows_of(found, "settings")
    names, common = setting_names(settings)
    fronts = {"macs": "MACs", "file": "size"}
    fronts |= {setting_text(s): n or "speed" for s, n in zip(settings, names, strict=True)}
    columns = ["method", ">target", ">seeds", ">error", ">change", ">MACs", ">size"]
    columns += [", ".join(filter(None, (">speedup", name))) for name in names]
    out = [_original(body, len(names))]
    out += [(*_row(row, len(names)), _front(row, fronts)) for row in rows]
    marked = {i for i, row in enumerate(rows, 1) if len(row.get("front", [])) == len(fronts)}
    return Table(
        "Methods and targets", (*columns, "on the front of"), tuple(out), _note(body, common),
        frozenset(marked),
    )  # fmt: skip


def _original(body: Mapping[str, Any], settings: int) -> tuple[str, ...]:
    error = as_float(section(body, "original").get("error"))
    shown = "-" if math.isnan(error) else f"{error:.2f} %"
    return ("original", "", "", shown, "", *["1.00x"] * (2 + settings), "")


def _row(row: Mapping[str, Any], settings: int) -> tuple[str, ...]:
    seeds, planned = row.get("seeds"), row.get("planned")
    done = len(seeds) if isinstance(seeds, list) else 0
    counted = f"{done}" if done == planned else f"{done} of {clean(planned)}"
    head = (clean(row.get("method")), target_text(section(row, "target")), counted)
    if "error" not in row:
        return (*head, *["-"] * (4 + settings))
    ratios, speedups = section(row, "ratios"), row.get("speedup")
    return (
        *head,
        _spread_text(row["error"], " %"),
        figure_text(row.get("error_rise"), sign=True),
        *(_spread_text(ratios.get(key), "x") for key in ("macs", "file")),
        *(figure_text(figure) for figure in (speedups if isinstance(speedups, list) else [])),
    )


def _spread_text(node: object, unit: str) -> str:
    """Write a mean with the deviation over seeds, where there is one that shows."""
    value = as_float(node)
    sd = as_float(node.get("sd")) if isinstance(node, Mapping) else math.nan
    if math.isnan(value):
        return "-"
    return f"{value:.2f} ± {sd:.2f}{unit}" if sd >= 0.005 else f"{value:.2f}{unit}"


def _front(row: Mapping[str, Any], fronts: Mapping[str, str]) -> str:
    own = row.get("front")
    names = [fronts[name] for name in own if name in fronts] if isinstance(own, list) else []
    return "all" if len(names) == len(fronts) else "; ".join(names) or "-"


def _note(body: Mapping[str, Any], common: str) -> str:
    n = as_float(section(section(body, "original"), "error").get("n"))
    inputs = "inputs" if math.isnan(n) else f"{n:,.0f} inputs"
    words = [
        f"Means over the seeds ± standard deviation; changes are paired over the same {inputs}.",
        "Brackets: 95% intervals over inputs (of a speedup: rounds) and seeds.",
        f"Speedup: {common}." if common else "",
        "Front: no row has less error at no more of that cost.",
    ]
    return " ".join(filter(None, words))


def _failed_table(body: Mapping[str, Any]) -> Table | None:
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in rows_of(section(body, "sweep"), "cells"):
        if (status := clean(cell.get("status"))) != "done":
            why = shorten(cell.get("why", "the same command goes on with it"), _MOST_WHY)
            groups.setdefault((status, why), []).append(clean(cell.get("name")))
    if not groups:
        return None
    out = []
    for (status, why), names in groups.items():
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        out.append((", ".join(names[:_MOST_NAMES]) + more, status, why))
    return Table("Cells without figures", ("cells", "status", "reason"), tuple(out))
