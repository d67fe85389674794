"""The comparison of uncertainty methods as plain tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import (
    as_float,
    bytes_text,
    clean,
    count_text,
    figure_text,
    shorten,
)

__all__ = ["fit_table", "label_of", "methods_table", "ood_names", "ood_tables", "verdict"]

_MOST_LABEL = 60
_COLUMNS = (("error", ">error, %", 2), ("nll", ">NLL, nats", 4))
_LAST_COLUMNS = (("ece", ">ECE, %", 2), ("brier", ">Brier", 4))


def label_of(row: Mapping[str, Any]) -> str:
    """Return how a method, or a curve of one, is named for a person."""
    return shorten(row.get("label") or row.get("name") or "-", _MOST_LABEL)


def _method_label(row: Mapping[str, Any], most: float = math.nan) -> str:
    """Return the label, with a word where it was delivered, or measured on fewer than `most`."""
    n = _inputs(row)
    words = ["delivered"] if row.get("delivered") is True else []
    words += [f"n = {count_text(n)}"] if n < most else []
    return label_of(row) + (f" ({', '.join(words)})" if words else "")


def _delivered(rows: list[Mapping[str, Any]]) -> frozenset[int]:
    """Return which rows stand for the delivered method."""
    return frozenset(i for i, row in enumerate(rows) if row.get("delivered") is True)


def _number(node: object, decimals: int) -> str:
    """Write the value alone, with the same decimals in the whole column."""
    value = as_float(node)
    if math.isfinite(value) and abs(value) < 1e5:
        return f"{value:.{decimals}f}"
    return figure_text(node, unit=False).partition(" [")[0]


def _inputs(row: Mapping[str, Any]) -> float:
    """Return how many inputs a method was measured on, NaN where that is not known."""
    nll = section(row, "nll")
    return as_float(row.get("n", nll.get("n")))


def verdict(body: Mapping[str, Any]) -> list[str]:
    """Return the sentences that say which method won, empty where there are none."""
    found = body.get("verdict")
    lines = found if isinstance(found, list) else [found]
    return [text for line in lines if isinstance(line, str) and (text := clean(line))]


def methods_table(body: Mapping[str, Any]) -> Table | None:
    """Return the methods side by side: the delivered one marked, changes against the first."""
    rows = rows_of(body, "methods")
    if not rows:
        return None
    most = max((n for n in map(_inputs, rows) if not math.isnan(n)), default=math.nan)
    heated = any(math.isfinite(as_float(row.get("temperature"))) for row in rows)
    out = []
    for i, row in enumerate(rows):
        cells = [_method_label(row, most), count_text(row.get("samples"))]
        cells += [_number(row.get("temperature"), 2)] if heated else []
        cells += [_number(row.get(key), digits) for key, _, digits in _COLUMNS]
        rise = section(row, "paired").get("nll_rise")
        first = i == 0 and rise is None
        cells.append("reference" if first else figure_text(rise, sign=True, unit=False))
        cells += [_number(row.get(key), digits) for key, _, digits in _LAST_COLUMNS]
        out.append(tuple(cells))
    columns = ["method", ">K", *([">T"] if heated else []), *(title for _, title, _ in _COLUMNS)]
    columns += [">change of NLL", *(title for _, title, _ in _LAST_COLUMNS)]
    note = f"K: passes averaged{'; T: temperature' if heated else ''}. "
    note += _methods_note(rows, most)
    return Table("Side by side", tuple(columns), tuple(out), note.strip(), _delivered(rows))


def _methods_note(rows: list[Mapping[str, Any]], most: float) -> str:
    """Say how many inputs there were, and how the rows may be compared."""
    fewer = any(_inputs(row) < most for row in rows)
    note = "" if math.isnan(most) else f"n = {count_text(most)}{' where not said' * fewer}. "
    rises = [section(section(row, "paired"), "nll_rise") for row in rows]
    levels = {as_float(rise.get("level", 0.95)) for rise in rises if rise}
    level = f" ({levels.pop():.0%} intervals)" if len(levels) == 1 else ""
    if any(rises):
        note += f"Changes are against {label_of(rows[0])}, paired over the same inputs{level}. "
    if fewer:
        note += "Compare a row of fewer inputs by its change, not by its figures."
    return note


def ood_names(body: Mapping[str, Any]) -> list[str]:
    """Return the names of the data sets outside the domain, as the report holds them."""
    rows = rows_of(body, "methods")
    return list(dict.fromkeys(str(name) for row in rows for name in section(row, "ood")))


def ood_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return how well the entropy tells each data set from the test set, a table a set."""
    found = (_ood_table(rows_of(body, "methods"), name) for name in ood_names(body))
    return [table for table in found if table is not None]


def _ood_table(rows: list[Mapping[str, Any]], name: str) -> Table | None:
    """Return the table of one data set; columns that no method has are left out."""
    rows = [row for row in rows if section(section(row, "ood"), name)]
    if not rows:
        return None
    columns: dict[str, list[str]] = {
        ">AUROC, %": [], ">change": [], ">AUROC by EE, %": [], ">AUROC by MI, %": [],
        ">AUPR, %": [], ">FPR95, %": [],
    }  # fmt: skip
    counts = set()
    for row in rows:
        scores = section(section(row, "ood"), name)
        entropy, mutual = section(scores, "entropy"), section(scores, "mutual_information")
        rise = scores.get("auroc_rise")
        cells = (
            _number(entropy.get("auroc"), 2),
            figure_text(rise, sign=True, unit=False),
            _number(section(scores, "expected_entropy").get("auroc"), 2),
            _number(mutual.get("auroc"), 2),
            _number(entropy.get("aupr"), 2),
            _number(entropy.get("fpr95"), 2),
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
        counts.add(as_float(section(entropy, "auroc").get("n")))
    kept = {head: cells for head, cells in columns.items() if any(c != "-" for c in cells)}
    if columns[">change"][0] == "-" and ">change" in kept:
        kept[">change"][0] = "reference"
    out = tuple(zip(map(_method_label, rows), *kept.values(), strict=True))
    note = "By the entropy of the prediction" + (
        ", or its parts: the expected entropy of one sample (EE) and the mutual information "
        "with the noise (MI)."
        if ">AUROC by MI, %" in kept
        else "."
    )
    note += " Higher is better, but FPR95."
    note += " Changes are points of AUROC by entropy." if ">change" in kept else ""
    if len(counts) == 1 and math.isfinite(n := counts.pop()):
        note += f" n = {count_text(n)}."
    title = f"Out of domain: {shorten(name, _MOST_LABEL)}"
    return Table(title, ("method", *kept), out, note, _delivered(rows))


def fit_table(body: Mapping[str, Any]) -> Table | None:
    """Return what was fitted, and how well the fitted distribution describes the statistics."""
    fit = section(body, "fit")
    ks = section(fit, "ks")
    store, replay = as_float(fit.get("store_bytes")), as_float(fit.get("replay_bytes"))
    share = f" ({replay / store:.3g}x as much)" if store > 0 and replay > store else ""
    batches, size = count_text(fit.get("batches")), count_text(fit.get("batch_size"))
    null, limit = (figure_text(ks.get(key)) for key in ("null_median", "null_95"))
    rejected = _number(ks.get("rejected_share"), 1)
    n = f" of {count_text(ks['n'])} tests" if "n" in ks else ""
    rows = (
        ("sampler", clean(fit.get("sampler") or "-")),
        ("batches", batches if size == "-" else f"{batches} of {size} inputs"),
        ("normalisation layers", count_text(fit.get("layers"))),
        ("channels", count_text(fit.get("channels"))),
        ("store", bytes_text(store)),
        ("store of a replay", f"{bytes_text(replay)}{share}" if replay == replay else "-"),
        ("time to fit", f"{as_float(fit.get('seconds')):.3g} s" if "seconds" in fit else "-"),
        ("median KS distance", figure_text(ks.get("median"))),
        ("median KS of a true fit", null if limit == "-" else f"{null}, 95 % below {limit}"),
        ("rejected by Lilliefors, 5 % level", "-" if rejected == "-" else f"{rejected} %{n}"),
    )
    known = tuple(row for row in rows if not row[1].startswith(("-", "nan")))
    note = "A true fit is rejected in 5 % of tests." if rejected != "-" else ""
    return Table("Fit of the batch statistics", ("", ">value"), known, note) if known else None
