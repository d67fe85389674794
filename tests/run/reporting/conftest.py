"""How a report is looked at: as a page whose tags nest, as terminal text, row by row."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from bnnkit.cli.tables import render
from bnnkit.spec.report import Quantity, Report


class Strict(HTMLParser):
    """Collects text, headings, tags, ids, addresses and pictures, and checks that tags nest."""

    VOID = frozenset({"meta", "br", "path", "use", "line", "rect", "image", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.headings, self.text = [], [], [], [], []
        self.addresses, self.images = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        self.images += [dict(attrs)["src"]] if tag == "img" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def as_text(report: Report, *, terminal: bool = False, width: int = 80) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, force_terminal=terminal, width=width, color_system=None))
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def row_by_column(table: Any, start: str) -> dict[str, str]:
    (row,) = (row for row in table.rows if row[0].startswith(start))
    return dict(zip(table.columns, row, strict=True))


def with_numbers(node: Any, value: Any) -> Any:
    if isinstance(node, dict):
        return {key: with_numbers(v, value) for key, v in node.items()}
    if isinstance(node, list):
        return [with_numbers(v, value) for v in node]
    return value if isinstance(node, float | int | Quantity) else node


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Strict]:
    """Parse a page; every tag must nest."""
    return Strict


@pytest.fixture(scope="session")
def written() -> Callable[..., str]:
    """Write a report as on a terminal of some width, without its attributes."""
    return as_text


@pytest.fixture(scope="session")
def cells() -> Callable[..., dict[str, str]]:
    """Return the row of a table whose first cell starts with a word, by columns."""
    return row_by_column


@pytest.fixture(scope="session")
def nulled() -> Callable[..., Any]:
    """Return a section with every number replaced by a value."""
    return with_numbers
