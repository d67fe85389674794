"""A report for a person: tables on a terminal, aligned plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from bnnkit.run.reporting import digest, filter_digest, uncertainty_digest
from bnnkit.run.reporting.prune_digest import search_table
from bnnkit.run.reporting.sweep_digest import sweep_tables
from bnnkit.run.reporting.tabular import tabular_tables
from bnnkit.run.reporting.wording import as_float, clean
from bnnkit.spec.report import Report

__all__ = ["draw", "render", "render_gates"]

_MOST_ROWS = 40
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "missing": "yellow"}


def _draw_plain(table: digest.Table, console: Console) -> None:
    """Write aligned columns without boxes or colours; a long line is never broken."""
    heads = [column.removeprefix(">") for column in table.columns]
    grid = [heads, *table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(heads))]
    lines = [table.title]
    for row in grid:
        cells = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    if table.note:
        lines.append(f"  {table.note}")
    console.out("\n".join(lines), "\n", sep="", end="", highlight=False)
    console.line()


def _draw_rich(table: digest.Table, console: Console) -> None:
    """Draw a table in the width of the terminal: intervals go below where it is too narrow."""
    columns = zip(table.columns, *table.rows, strict=True)
    width = sum(max(map(len, column)) + 2 for column in columns)
    heads, rows = [column.removeprefix(">") for column in table.columns], table.rows
    if width > console.width:
        heads = [head.replace(", ", ",\n") for head in heads]
        rows = tuple(tuple(cell.replace(" [", "\n[") for cell in row) for row in rows)
    grid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column, head in zip(table.columns, heads, strict=True):
        right = column.startswith(">")
        grid.add_column(
            Text(head),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    verdict = table.columns.index("verdict") if "verdict" in table.columns else -1
    for i, row in enumerate(rows):
        cells = [Text(cell, style="bold" if i in table.marked else "") for cell in row]
        if verdict >= 0:
            cells[verdict].stylize(_COLOURS.get(row[verdict], ""))
        grid.add_row(*cells)
    console.print(Text(table.title, style="bold"))
    console.print(Padding(grid, (0, 0, 0, 2)))
    if table.note:
        console.print(Padding(Text(table.note, style="dim"), (0, 0, 0, 2)))
    console.line()


def draw(table: digest.Table, console: Console) -> None:
    """Draw for a terminal or for a log."""
    (_draw_rich if console.is_terminal else _draw_plain)(table, console)


def _kept_first(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave the classes that lost the most where there are too many to read, in their order."""
    rows = digest.rows_of(body, "classes")
    if len(rows) <= _MOST_ROWS:
        return body

    def lost(i: int) -> float:
        size = as_float(rows[i].get("size"))
        gap = size - as_float(rows[i].get("kept", size))
        return gap if gap == gap else 0.0

    most = sorted(sorted(range(len(rows)), key=lost, reverse=True)[:_MOST_ROWS])
    return {**body, "classes": [rows[i] for i in most]}


def _kept_table(body: Mapping[str, Any]) -> digest.Table | None:
    """Return the units kept, shortened on a deep network."""
    whole, short = digest.kept_table(body), digest.kept_table(_kept_first(body))
    if whole is None or short is None or len(whole.rows) == len(short.rows):
        return whole
    rest = len(whole.rows) - len(short.rows)
    note = f"{whole.note} Shown: those that lost the most; {rest} more are in the report."
    return replace(short, note=note)


def _tables(body: Mapping[str, Any], width: int | None) -> Iterator[digest.Table | None]:
    """Yield every table up to the comparison of methods, in the order of reading."""
    yield digest.curve_table(body)
    yield search_table(body)
    yield from sweep_tables(body)
    yield _kept_table(body)
    yield digest.locked_table(body)
    yield uncertainty_digest.fit_table(body)
    yield digest.latency_table(body)
    yield from uncertainty_digest.ood_tables(body)
    yield digest.quality_table(body)
    yield uncertainty_digest.methods_table(body)
    yield from filter_digest.tables(body, width)
    yield from tabular_tables(body)


def _draw_verdict(body: Mapping[str, Any], console: Console) -> None:
    """Write the sentences below the comparison of methods; a line of a log is never broken."""
    sentences = uncertainty_digest.verdict(body)
    for sentence in sentences:
        console.print(Text(sentence), highlight=False, soft_wrap=not console.is_terminal)
    if sentences:
        console.line()


def render(report: Report, console: Console) -> None:
    """Write a report's sections for a person, the verdict last where the eye is.

    Args:
        report: Any command's report; its names may come from untrusted files.
        console: Where to; boxes and colours only where it is a terminal.
    """
    body = report.to_dict()
    if not console.is_terminal:
        model = digest.section(body, "model")
        subject = clean(model.get("file") or model.get("arch") or "")
        heading = f"bnnkit {clean(report.command)}" + (f": {subject}" if subject else "")
        console.out(heading, highlight=False)
        console.line()
    for note in (notes := filter_digest.notes(body)):
        console.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)
    if notes:
        console.line()
    for table in _tables(body, console.width if console.is_terminal else None):
        if table is not None:
            draw(table, console)
    _draw_verdict(body, console)
    for table in (digest.checks_table(body), digest.gates_table(body)):
        if table is not None:
            draw(table, console)


def render_gates(report: Report, console: Console) -> None:
    """Write only the judged gates."""
    table = digest.gates_table(report.to_dict())
    if table is not None:
        draw(table, console)
