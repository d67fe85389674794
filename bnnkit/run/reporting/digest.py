"""A report as plain tables of text, which the terminal, Markdown and HTML each draw their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bnnkit.run.reporting.wording import (
    as_float,
    bytes_text,
    change_text,
    clean,
    count_text,
    figure_text,
    n_text,
    ratio_text,
    setting_text,
    shorten,
)

__all__ = [
    "Table",
    "checks_table",
    "curve_table",
    "gates_table",
    "kept_table",
    "latency_table",
    "layers_table",
    "locked_table",
    "notes",
    "quality_table",
    "rows_of",
    "section",
]


@dataclass(frozen=True)
class Table:
    """One table of text.

    Args:
        title: What it is about.
        columns: Headings; those that begin with `>` hold numbers and are set to the right.
        rows: Cells, as many as there are columns.
        note: A sentence below it.
        marked: Rows to be set apart.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: frozenset[int] = frozenset()


def section(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section that is a mapping, empty where the report has none."""
    found = body.get(name)
    return found if isinstance(found, Mapping) else {}


def rows_of(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a section that is a list of mappings, empty where the report has none."""
    found = body.get(name)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


_FIGURES = (
    ("error", "error"),
    ("nll", "NLL"),
    ("ece", "ECE"),
    ("ece_equal_mass", "ECE, equal mass"),
    ("brier", "Brier score"),
    ("elbo", "evidence bound"),
)
_GREY = {"nll": "importance-weighted loss", "elbo": "objective (no bound)"}
"""What figures of an autoencoder are called where its likelihood is none of its data."""
_PAIRS = {"sbn-fit": ("original", "stochastic"), "vae-refine": ("encoder", "refined")}
"""What the two sides of a command's comparison are called."""
_COUNTS: tuple[tuple[str, str, str, Callable[[object], str], str], ...] = (
    ("parameters", "parameters", "parameters", count_text, "fewer"),
    ("macs", "MACs", "macs", lambda n: count_text(n, "MACs"), "fewer"),
    ("file_bytes", "file size", "file", bytes_text, "smaller"),
)


def quality_table(body: Mapping[str, Any]) -> Table | None:
    """Return error, calibration and size: original against new where both were measured."""
    original, slim = section(body, "original"), section(body, "slim")
    paired, ratios = section(body, "paired"), section(body, "ratios")
    if not slim:
        return None
    rows = []
    grey = section(body, "model").get("is_bound") is False
    for key, name in _FIGURES:
        if key not in slim:
            continue
        name = _GREY.get(key, name) if grey else name
        rise = paired.get(f"{key}_rise", paired.get(f"{key}_gain"))
        cells = [figure_text(original.get(key)), figure_text(slim[key])]
        change = figure_text(rise, sign=True)
        rows.append((name, *cells, change, n_text(slim[key], original.get(key), rise)))
    for key, name, ratio, write, less in _COUNTS:
        if key not in slim:
            continue
        change = ratio_text(ratios.get(ratio), less, "larger" if less == "smaller" else "more")
        rows.append((name, write(original.get(key)), write(slim[key]), change, "exact"))
    note = _level_note(*(slim.get(key) for key, _ in _FIGURES))
    if paired and note:
        note += " Changes are paired over the same inputs."
    if not original:
        alone = tuple((name, value, n) for name, _, value, _, n in rows)
        return Table("Measured", ("", ">value", ">n"), alone, note)
    old, new = _PAIRS.get(str(body.get("command")), ("original", "slim"))
    if section(body, "refinement").get("start") == "trained":
        old = "trained"
    columns = ("", f">{old}", f">{new}", ">change", ">n")
    return Table(f"{old.capitalize()} against {new}", columns, tuple(rows), note)


def _level_note(*figures: object) -> str:
    """Say the confidence of the intervals in brackets."""
    levels = {as_float(f.get("level", 0.95)) for f in figures if isinstance(f, Mapping)}
    return f"Brackets: {levels.pop():.0%} intervals." if len(levels) == 1 else ""


def latency_table(body: Mapping[str, Any]) -> Table | None:
    """Return latencies: a row for each setting and model, or side by side where two compare."""
    rows = rows_of(body, "latency")
    if not rows:
        return None
    models = [rows_of(row, "models") for row in rows]
    names = {tuple(clean(m.get("name")) for m in group) for group in models}
    note = _level_note(*(m.get("latency") for group in models for m in group))
    if len(names) == 1 and len(pair := next(iter(names))) == 2:
        out = [
            (
                setting_text(row),
                *(figure_text(m.get("latency")) for m in group),
                figure_text(group[1].get("speedup")),
                n_text(*(m.get("latency") for m in group)),
            )
            for row, group in zip(rows, models, strict=True)
        ]
        columns = ("setting", *(f">{name}" for name in pair), ">speedup", ">n")
        return Table("Latency", columns, tuple(out), note)
    out = [
        (
            setting_text(row),
            clean(m.get("name")),
            figure_text(m.get("latency")),
            figure_text(m.get("spread")),
            figure_text(m.get("speedup")) if i else "reference",
            n_text(m.get("latency")),
        )
        for row, group in zip(rows, models, strict=True)
        for i, m in enumerate(group)
    ]
    columns = ("setting", "model", ">latency", ">spread", ">speedup", ">n")
    return Table("Latency", columns, tuple(out), note)


def kept_table(body: Mapping[str, Any]) -> Table | None:
    """Return the units kept in each channel class."""
    rows = rows_of(body, "classes")
    if not rows:
        return None
    out, before, after = [], 0.0, 0.0
    for row in rows:
        size, kept = as_float(row.get("size")), as_float(row.get("kept", row.get("size")))
        before, after = before + size, after + kept
        share = f"{kept / size:.0%}" if size else "-"
        out.append((clean(row.get("name")), change_text(size, kept), share))
    note = f"{len(rows)} classes, {change_text(before, after)} units."
    if removable := section(body, "removable"):  # nothing was decided yet
        note += f" At most {_most(removable, 'parameters')} and {_most(removable, 'macs')} can go."
        return Table("Channel classes", ("class", ">units"), tuple(r[:2] for r in out), note)
    return Table("Units kept", ("class", ">units", ">kept"), tuple(out), note)


def _most(removable: Mapping[str, Any], key: str) -> str:
    """Write the share that could go, rounded down: all of a model can never go."""
    saving = section(removable, key)
    share, name = as_float(saving.get("share")), "MACs" if key == "macs" else key
    percent = "-" if math.isnan(share) else f"{math.floor(1000 * share) / 10}"
    return f"{percent} % of {count_text(saving.get('before'))} {name}"


def layers_table(body: Mapping[str, Any]) -> Table | None:
    """Return the sizes and the cost of each layer."""
    rows = rows_of(body, "layers")
    if not rows:
        return None

    def width(row: Mapping[str, Any], axis: int) -> str:
        ends = [row.get("before"), row.get("after", row.get("before"))]
        sizes = [e[axis] if isinstance(e, list) and len(e) > axis else None for e in ends]
        return change_text(*sizes)

    out = tuple(
        (
            clean(row.get("name")),
            clean(row.get("kind", "")),
            width(row, 0),
            width(row, 1),
            change_text(row.get("parameters_before"), row.get("parameters_after")),
            change_text(row.get("macs_before"), row.get("macs_after")),
        )
        for row in rows
    )
    return Table("Layers", ("layer", "kind", ">out", ">in", ">parameters", ">MACs"), out)


def locked_table(body: Mapping[str, Any]) -> Table | None:
    """Return what may not be removed, grouped by reason."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows_of(body, "locked"):
        groups.setdefault(clean(row.get("reason", "")), []).append(row)
    if not groups:
        return None
    out = []
    for reason, rows in groups.items():
        names = [shorten(row.get("name"), 40) for row in rows]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        channels = [as_float(row.get("channels")) for row in rows]
        known = [c for c in channels if c == c]
        count = count_text(sum(known)) if known else "-"
        out.append((", ".join(names[:3]) + more, count, reason))
    return Table("Locked", ("parts", ">channels", "reason"), tuple(out))


def checks_table(body: Mapping[str, Any]) -> Table | None:
    """Return the forms that were compared, and what on."""
    rows = rows_of(body, "checks")
    if not rows:
        return None
    out = tuple(
        (
            clean(row.get("name")),
            f"{as_float(row.get('worst')):.2g}",
            f"{as_float(row.get('tolerance')):.2g}",
            clean(row.get("unit", "")),
            count_text(row.get("n")),
            "pass" if row.get("passed") is True else "fail",
        )
        for row in rows
    )
    columns = ("form", ">worst difference", ">tolerance", "unit", ">n", "verdict")
    noise = body.get("inputs") == "noise"
    return Table(f"Checks on {'seeded noise' if noise else 'real inputs'}", columns, out)


def curve_table(body: Mapping[str, Any]) -> Table | None:
    """Return the first, the best and the last epoch of a training curve."""
    rows = rows_of(body, "curve")
    if not rows:
        return None
    scored = [row for row in rows if as_float(row.get("error")) == as_float(row.get("error"))]
    best = min(scored, key=lambda row: as_float(row["error"])) if scored else None
    picked = {"first": rows[0]}
    if best is not None and best is not rows[-1]:
        picked["best"] = best
    picked["last and best" if best is rows[-1] else "last"] = rows[-1]
    heads = [("loss", ">loss", ""), ("nll", ">NLL", " nats"), ("kl", ">KL", " nats")]
    heads += [("error", ">error", " %"), ("kept", ">units kept", "")]
    heads = [head for head in heads if any(row.get(head[0]) is not None for row in rows)]

    def cell(row: Mapping[str, Any], key: str, unit: str) -> str:
        node = row.get(key)
        if key == "kept":
            return count_text(node)
        return figure_text(node) + ("" if isinstance(node, Mapping) or node is None else unit)

    out = tuple(
        (which, count_text(row.get("epoch")), *(cell(row, key, unit) for key, _, unit in heads))
        for which, row in picked.items()
    )
    columns = ("", ">epoch", *(title for _, title, _ in heads))
    seconds = sum(s for row in rows if (s := as_float(row.get("seconds"))) == s)
    note = f"{len(rows)} epochs" + (f", {seconds:,.0f} s." if seconds else ".")
    return Table("Training", columns, out, note)


def gates_table(body: Mapping[str, Any]) -> Table | None:
    """Return the judged gates."""
    rows = rows_of(body, "gates")
    if not rows:
        return None
    out: list[tuple[str, ...]] = []
    for row in rows:
        name = clean(row.get("gate"))
        sign = "≥" if name.startswith("min") else "≤"
        limit = figure_text({"value": row.get("limit"), "unit": row.get("unit", "")})
        figure = "-" if row.get("verdict") == "missing" else figure_text(row)
        verdict, note = clean(row.get("verdict")), clean(row.get("note", ""))
        out.append((name, f"{sign} {limit}", figure, verdict, note))
    columns = ("gate", ">limit", ">measured", "verdict", "note")
    if any(row[-1] for row in out):
        return Table("Gates", columns, tuple(out))
    return Table("Gates", columns[:-1], tuple(row[:-1] for row in out))


def notes(body: Mapping[str, Any]) -> list[str]:
    """Return what was stripped, assumed or renamed."""
    lists = (section(body, name).get("notes") for name in ("model", "data"))
    return [clean(note) for notes in lists if isinstance(notes, list) for note in notes]
