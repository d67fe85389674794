"""A report as Markdown, for the summary page of a CI job."""

from __future__ import annotations

import re

from bnnkit.run import digest
from bnnkit.run.wording import clean
from bnnkit.spec.report import Report

__all__ = ["to_markdown"]

_MARK = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "⚠️ inconclusive"}


def _escape(cell: str) -> str:
    """Keep a foreign name from being read as Markdown, HTML, or a mention of a person."""
    safe = re.sub(r"([\\`*_{}\[\]<>|#~!])", r"\\\1", cell)
    return safe.replace("@", "@\u200b").replace("://", ":\u200b//")


def _table(table: digest.Table) -> str:
    """Draw one table."""
    heads = [_escape(c.removeprefix(">")) for c in table.columns]
    rules = ["---:" if c.startswith(">") else "---" for c in table.columns]
    verdict = table.columns.index("verdict") if "verdict" in table.columns else -1
    lines = [f"### {table.title}", "", f"| {' | '.join(heads)} |", f"| {' | '.join(rules)} |"]
    for row in table.rows:
        cells = [_escape(c) for c in row]
        if verdict >= 0:
            cells[verdict] = _MARK.get(row[verdict], cells[verdict])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", table.note] if table.note else lines)


def to_markdown(report: Report) -> str:
    """Return gates, figures, latency and checks as Markdown that ends in a newline."""
    body = report.to_dict()
    name = clean(digest.section(body, "model").get("file") or "")
    title = _escape(f"bnnkit {clean(report.command)}" + (f": {name}" if name else ""))
    makers = (digest.gates_table, digest.quality_table, digest.latency_table, digest.checks_table)
    tables = [_table(table) for make in makers if (table := make(body))]
    return "\n\n".join([f"## {title}", *tables]) + "\n"
