"""Judged gates as JUnit XML, which every CI system shows beside its own tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from bnnkit.run.reporting.wording import clean, figure_text

__all__ = ["to_junit"]


def _sentence(row: Mapping[str, Any]) -> str:
    """Say in one line what was asked and what was measured."""
    sign = "at least" if str(row["gate"]).startswith("min") else "at most"
    limit = figure_text({"value": row["limit"], "unit": row.get("unit", "")})
    asked = f"{clean(row['gate'])} asks for {sign} {limit}"
    note = clean(row.get("note", ""))
    if row["verdict"] == "missing":
        return f"{asked}; it {note}"
    return f"{asked}, measured {figure_text(row)}" + (f" at {note}" if note else "")


def to_junit(rows: Sequence[Mapping[str, Any]], *, strict: bool, name: str = "bnnkit") -> str:
    """Return the gates as one test suite.

    A failed gate is a failure, one without its figure an error, and an inconclusive one is
    skipped, or a failure under `strict`.

    Args:
        rows: Rows as `judge` returns them.
        strict: Whether an inconclusive gate counts as a failure.
        name: Name of the suite.

    Returns:
        An XML document that ends in a newline.
    """
    element = {"fail": "failure", "missing": "error"}
    element["inconclusive"] = "failure" if strict else "skipped"
    kinds = [element.get(row["verdict"], "") for row in rows]
    totals = {"tests": str(len(rows)), "failures": str(kinds.count("failure"))}
    totals |= {"errors": str(kinds.count("error")), "skipped": str(kinds.count("skipped"))}
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", {"name": clean(name), **totals, "time": "0"})
    for row, kind in zip(rows, kinds, strict=True):
        attributes = {"classname": f"{clean(name)}.gates", "name": clean(row["gate"]), "time": "0"}
        case = ET.SubElement(suite, "testcase", attributes)
        if kind:
            message = {"message": _sentence(row)}
            if kind != "skipped":
                message["type"] = str(row["verdict"])
            ET.SubElement(case, kind, message)
        else:
            ET.SubElement(case, "system-out").text = _sentence(row)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, "unicode") + "\n"
