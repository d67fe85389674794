"""How a pruning run came to its decision, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text

__all__ = ["refitted_table", "search_table"]


def search_table(body: Mapping[str, Any]) -> Table | None:
    """Return the rounds of a search under an error budget."""
    search = section(body, "search")
    rounds = rows_of(search, "rounds")
    if not rounds:
        return None
    rows = [
        (
            count_text(row.get("round")),
            f"{100 * as_float(row.get('share')):.1f} %",
            figure_text(row.get("error_rise"), sign=True),
            "yes" if row.get("held") else "no",
        )
        for row in rounds
    ]
    held = [i for i, row in enumerate(rounds) if row.get("held")]
    note = (
        f"Judged on {clean(search.get('data'))}, {count_text(search.get('n'))} examples, by the "
        "upper end of the paired interval."
    )
    return Table(
        "Search under the error budget",
        ("round", ">of the full cost", ">error rise there", "held"),
        tuple(rows),
        note,
        frozenset(held[-1:]),
    )


def refitted_table(body: Mapping[str, Any]) -> Table | None:
    """Return what refitting gave back to each layer that removal disturbed."""
    rows = rows_of(body, "refitted")
    if not rows:
        return None
    return Table(
        "Refitted layers",
        ("layer", ">lost with its inputs", ">left after refitting"),
        tuple(
            (clean(row.get("layer")), _share(row.get("before")), _share(row.get("after")))
            for row in rows
        ),
        "Shares of the variance of the outputs that the layer had before.",
    )


def _share(value: object) -> str:
    share = as_float(value)
    return f"{100 * share:.1f} %" if share == share else "-"
