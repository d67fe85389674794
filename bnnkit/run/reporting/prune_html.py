"""The pictures of a pruning run: the evidence about each unit, and what refitting gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting import digest, plots
from bnnkit.run.reporting.prune_digest import refitted_table
from bnnkit.run.reporting.wording import clean, count_text

__all__ = ["pictures"]

_MOST_PANELS = 24


def pictures(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `snr`, `losses` and `refitted` for the page; empty where the report lacks them."""
    return {"snr": _snr(body), "losses": _losses(body), "refitted": refitted_table(body)}


def _snr(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a histogram for each class, or strips where there are very many."""
    rows = _with(body, "snr")
    if not rows:
        return None
    groups = [row["snr"] for row in rows]
    bounds = plots.snr_range(groups)
    if len(rows) > _MOST_PANELS:
        names = [clean(row.get("name")) for row in rows]
        return {"strips": plots.snr_strips(names, groups, bounds), "panels": []}
    panels = [
        _panel(row, plots.snr_histogram(row["snr"], bounds, f"snr{i}"))
        for i, row in enumerate(rows)
    ]
    return {"strips": "", "panels": panels}


def _losses(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what the units of each class cost, in the order of going; of the first classes."""
    return [
        _panel(row, plots.loss_path(row["loss"], int(row.get("kept", 0)), f"loss{i}"))
        for i, row in enumerate(_with(body, "loss")[:_MOST_PANELS])
    ]


def _with(body: Mapping[str, Any], figure: str) -> list[Mapping[str, Any]]:
    """Return the classes that have such a figure of every unit."""
    rows = digest.rows_of(body, "classes")
    return [row for row in rows if isinstance(row.get(figure), list) and row[figure]]


def _panel(row: Mapping[str, Any], svg: str) -> dict[str, str]:
    kept = f"{count_text(row.get('kept'))} of {count_text(row.get('size'))} kept"
    return {"name": clean(row.get("name")), "text": kept, "svg": svg}
