"""The samplers of a generator side by side, and how their figures are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text, shorten

__all__ = [
    "OWN", "class_shares", "costs_table", "extractors_of", "fixed", "in_percent", "is_filter",
    "keep_known", "metric", "one_line", "own_extractors", "own_note", "sampler_named",
    "sampler_rows", "sampler_tables", "samplers_table", "share_text",
]  # fmt: skip

_Column = tuple[str, list[str]]

_METRICS = (("fid", "FID"), ("is", "IS"), ("precision", "precision"), ("recall", "recall"))
_MOST_LABEL, _MOST_EXTRACTOR = 48, 16
_NAME_WIDTH = 22  # a label may break where the terminal is narrow, to no less than this
_LARGE = 1e6
OWN = ", own"


def is_filter(body: Mapping[str, Any]) -> bool:
    """Return whether this is the report of a filtered generator."""
    return body.get("command") == "mh-filter"


def in_percent(node: object) -> dict[str, Any] | None:
    """Return a share in [0, 1], or a figure in %, as a figure in %; None for anything else.

    >>> in_percent(0.25), in_percent({"value": 25.0, "unit": "%"})
    ({'value': 25.0, 'unit': '%'}, {'value': 25.0, 'unit': '%'})
    """
    if math.isnan(as_float(node)):
        return None
    whole = dict(node) if isinstance(node, Mapping) else {"value": node}
    scale = 1.0 if whole.get("unit") == "%" else 100.0
    known = {key: as_float(whole.get(key)) for key in ("value", "low", "high")}
    return {**{key: scale * v for key, v in known.items() if not math.isnan(v)}, "unit": "%"}


def fixed(nodes: Sequence[object], decimals: int | None = None) -> list[str]:
    """Write values with the same decimals, so many that the smallest keeps two digits.

    >>> fixed([126.81, 3.1, None])
    ['126.81', '3.10', '-']
    """
    values = [as_float(node) for node in nodes]
    sizes = [abs(v) for v in values if math.isfinite(v) and v != 0]
    if decimals is None:
        exponent = math.floor(math.log10(min(sizes))) if sizes else 0
        decimals = 1 if exponent >= 1 else min(max(1 - exponent, 2), 4)

    def write(value: float) -> str:
        if not math.isfinite(value):
            return "-"
        return f"{value:.{decimals}f}" if abs(value) < _LARGE else f"{value:.3g}"

    return [write(v) for v in values]


def share_text(node: object) -> str:
    """Write a share in %, with its interval where it has one, `-` where there is none.

    >>> share_text(0.0006), share_text({"value": 0.37, "low": 0.36, "high": 0.38})
    ('0.1 %', '37.0 % [36.0, 38.0]')
    """
    share = in_percent(node)
    if share is None or "low" in share:
        return figure_text(share)
    return f"{fixed([share], 1)[0]} %"


def keep_known(
    title: str,
    columns: Sequence[_Column],
    note: str = "",
    marked: frozenset[int] = frozenset(),
) -> Table | None:
    """Return a table of the columns that say anything, None where none does."""
    known = [(head, cells) for head, cells in columns if any(c not in ("", "-") for c in cells)]
    if not known:
        return None
    rows = tuple(zip(*(cells for _, cells in known), strict=True))
    return Table(title, tuple(head for head, _ in known), rows, note, marked)


def own_extractors(body: Mapping[str, Any]) -> frozenset[str]:
    """Return the features that the filter itself used: its figures there flatter it."""
    rows = rows_of(body, "extractors")
    return frozenset(str(row.get("name")) for row in rows if row.get("own") is True)


def own_note(body: Mapping[str, Any]) -> str:
    """Say what `own` means, empty where no features are the filter's own."""
    if not own_extractors(body):
        return ""
    return "Own: features that the filter itself used, which flatter it there."


def extractors_of(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each set of features, as the report names it and as a heading names it."""
    listed = [row["name"] for row in rows_of(body, "extractors") if row.get("name") is not None]
    rows = [*rows_of(body, "samplers"), *rows_of(body, "length_curve")]
    used = [name for row in rows for name in section(row, "metrics")]
    own, names = own_extractors(body), list(dict.fromkeys(map(str, [*listed, *used])))
    heads = list(map(_heading, names))
    return [
        (name, (head if heads.count(head) == 1 else shorten(name, 40)) + OWN * (name in own))
        for name, head in zip(names, heads, strict=True)
    ]


def _heading(name: str) -> str:
    """Return features in few words: the model alone, where model and layer are too long."""
    whole = clean(name)
    short = whole if len(whole) <= _MOST_EXTRACTOR else whole.partition(", ")[0]
    return shorten(short, _MOST_EXTRACTOR)


def one_line(head: str) -> str:
    """Write a heading of features outside a table.

    >>> one_line("lenet5, own")
    'lenet5 (own)'
    """
    return f"{head.removesuffix(OWN)} (own)" if head.endswith(OWN) else head


def metric(row: Mapping[str, Any], extractor: str, key: str) -> object:
    """Return one figure of a sampler, or of one chain length, in one set of features."""
    return section(section(row, "metrics"), extractor).get(key)


def class_shares(row: Mapping[str, Any]) -> list[float]:
    """Return the share of each class in %, NaN for one that is not a number."""
    found = row.get("classes")
    return [as_float(share) for share in found] if isinstance(found, list) else []


def sampler_rows(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the samplers, the real images that are their floor last."""
    return sorted(rows_of(body, "samplers"), key=lambda row: row.get("name") == "floor")


def sampler_named(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the sampler of that name, `delivered` for the delivered one; empty without one."""
    for row in rows_of(body, "samplers"):
        if row.get("delivered") is True if name == "delivered" else row.get("name") == name:
            return row
    return {}


def _label(row: Mapping[str, Any], most: float) -> str:
    """Return how a sampler is named, with a word where it is special."""
    name = shorten(row.get("label") or row.get("name") or "-", _MOST_LABEL)
    words = ["delivered"] if row.get("delivered") is True else []
    words += ["floor"] if row.get("name") == "floor" and "floor" not in name.lower() else []
    words += [f"n = {count_text(n)}"] if (n := as_float(row.get("n"))) < most else []
    return name + (f" ({', '.join(words)})" if words else "")


def _extreme(row: Mapping[str, Any], largest: bool) -> float:
    """Return the largest or the smallest share of a class, NaN where none is known."""
    known = [share for share in class_shares(row) if math.isfinite(share)]
    return (max if largest else min)(known, default=math.nan)


def _names_column(body: Mapping[str, Any]) -> _Column:
    """Return the labels of the samplers."""
    rows = sampler_rows(body)
    counts = [n for row in rows if math.isfinite(n := as_float(row.get("n")))]
    return "sampler", [_label(row, max(counts, default=math.nan)) for row in rows]


def _group(body: Mapping[str, Any], name: str, head: str) -> list[_Column]:
    """Return the columns of one set of features."""
    rows = sampler_rows(body)
    return [
        (f">{title}, {head}", fixed([metric(row, name, key) for row in rows], decimals))
        for key, title in _METRICS
        for decimals in [None if key == "fid" else 2]
    ]


def _class_columns(body: Mapping[str, Any]) -> list[_Column]:
    """Return the ends of the class histogram."""
    rows = sampler_rows(body)
    return [
        (">rarest class, %", fixed([_extreme(row, largest=False) for row in rows], 1)),
        (">commonest, %", fixed([_extreme(row, largest=True) for row in rows], 1)),
    ]


def _samplers(
    body: Mapping[str, Any], title: str, columns: Sequence[_Column], note: str
) -> Table | None:
    """Return a table of samplers, the delivered one marked."""
    rows = sampler_rows(body)
    if not keep_known(title, columns):
        return None
    marked = frozenset(i for i, row in enumerate(rows) if row.get("delivered") is True)
    return keep_known(title, [_names_column(body), *columns], note, marked)


def _samplers_note(body: Mapping[str, Any]) -> str:
    """Say what the rows are made of, and what the last one is."""
    rows = sampler_rows(body)
    counts = [n for row in rows if math.isfinite(n := as_float(row.get("n")))]
    parts = []
    if counts:
        fewer = " where not said" if min(counts) < max(counts) else ""
        parts.append(f"n = {count_text(max(counts))}{fewer}.")
    if any(row.get("name") == "floor" for row in rows):
        parts.append("Floor: real training images against the test images, as good as can be.")
    return " ".join(parts)


def samplers_table(body: Mapping[str, Any]) -> Table | None:
    """Return the samplers side by side: a group of columns for each set of features."""
    groups = [column for pair in extractors_of(body) for column in _group(body, *pair)]
    columns = [*groups, *_class_columns(body)]
    note = f"{_samplers_note(body)} {own_note(body)}".strip()
    return _samplers(body, "Samplers side by side", columns, note)


def _with_spread(node: object) -> str:
    """Write a figure with its interval, or with its standard deviation where it has one."""
    sd = as_float(node.get("sd")) if isinstance(node, Mapping) else math.nan
    value, deviation = fixed([node, sd])
    return figure_text(node, unit=False) if deviation == "-" else f"{value} ± {deviation}"


def costs_table(body: Mapping[str, Any], *, whole: bool = True) -> Table | None:
    """Return what the samplers' figures rest on and cost, and how much their images vary.

    Args:
        body: The report as dictionaries.
        whole: Whether kernel distances and the report's words have columns.
    """
    rows = sampler_rows(body)
    columns: list[_Column] = [
        (">TV of classes", fixed([row.get("class_tv") for row in rows], 3)),
        (">accepted, %", fixed([in_percent(row.get("acceptance")) for row in rows], 1)),
        (">distinct, %", fixed([in_percent(row.get("unique_share")) for row in rows], 1)),
        (">time, s", fixed([row.get("seconds") for row in rows])),
    ]
    for name, head in extractors_of(body) if whole else ():
        figures = [_with_spread(metric(row, name, "kid")) for row in rows]
        columns.append((f">KID, {head}", figures))
    if whole:
        columns.append(("note", [clean(row.get("note") or "") for row in rows]))
    varied = any(cell != "-" for cell in columns[0][1])
    note = "TV of classes: total variation of the class shares from the test images'."
    return _samplers(body, "Samplers: variety and cost", columns, note if varied else "")


def _width(table: Table) -> int:
    """Return how wide a terminal draws a table whose headings and intervals it may break."""
    total = 2
    for i, head in enumerate(table.columns):
        texts = [*head.removeprefix(">").split(", "), *(row[i] for row in table.rows)]
        widest = max(len(part) for text in texts for part in text.split(" ["))
        if not head.startswith(">"):
            longest = max(len(word) for text in texts for word in text.split())
            widest = min(widest, max(longest, _NAME_WIDTH))
        total += 2 + widest
    return total


def sampler_tables(body: Mapping[str, Any], width: int | None = None) -> list[Table]:
    """Return the samplers side by side: one table where it fits, else one for each features.

    Args:
        body: The report as dictionaries.
        width: Columns of the terminal; None where a line may be as long as it likes.
    """
    limit = math.inf if width is None else width
    costs, whole = costs_table(body), samplers_table(body)
    if costs is not None and _width(costs) > limit:
        costs = costs_table(body, whole=False)
    found = [] if costs is None else [costs]
    if whole is None:
        return found
    return [*found, whole] if _width(whole) <= limit else found + _split(body)


def _split(body: Mapping[str, Any]) -> list[Table]:
    """Return a table for each set of features; what they share is said once."""
    found: list[Table] = []
    for name, head in extractors_of(body):
        columns = [(c.removesuffix(f", {head}"), cells) for c, cells in _group(body, name, head)]
        columns += [] if found else _class_columns(body)
        note = own_note(body) if head.endswith(OWN) else ""
        title = f"Samplers in features of {one_line(head)}"
        if part := _samplers(body, title, columns, note):
            found.append(part)
    if found:
        note = f"{found[-1].note} {_samplers_note(body)}".strip()
        found[-1] = replace(found[-1], note=note)
    return found
