"""A report as Markdown, for the summary page of a CI job."""

from __future__ import annotations

import re

from bnnkit.run.reporting import digest, filter_digest, uncertainty_digest
from bnnkit.run.reporting.prune_digest import search_table
from bnnkit.run.reporting.sweep_digest import sweep_tables
from bnnkit.run.reporting.tabular import tabular_tables
from bnnkit.run.reporting.wording import clean
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
    lines = [
        f"### {_escape(table.title)}",
        "",
        f"| {' | '.join(heads)} |",
        f"| {' | '.join(rules)} |",
    ]
    for i, row in enumerate(table.rows):
        cells = [_escape(c) for c in row]
        if i in table.marked:
            cells = [f"**{c}**" if c else c for c in cells]
        if verdict >= 0:
            cells[verdict] = _MARK.get(row[verdict], cells[verdict])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _escape(table.note)] if table.note else lines)


def to_markdown(report: Report) -> str:
    """Return gates, figures, latency and checks as Markdown that ends in a newline."""
    body = report.to_dict()
    model = digest.section(body, "model")
    name = clean(model.get("file") or model.get("arch") or "")
    title = _escape(f"bnnkit {clean(report.command)}" + (f": {name}" if name else ""))
    tables = [
        digest.gates_table(body),
        digest.quality_table(body),
        search_table(body),
        *sweep_tables(body),
        uncertainty_digest.methods_table(body),
        *uncertainty_digest.ood_tables(body),
        *filter_digest.tables(body),
        *tabular_tables(body),
        digest.latency_table(body),
        digest.checks_table(body),
    ]
    verdict = " ".join(map(_escape, uncertainty_digest.verdict(body)))
    parts = [f"## {title}", verdict, *(_table(table) for table in tables if table)]
    return "\n\n".join(part for part in parts if part) + "\n"
