"""The Pareto charts of a sweep: error over what a net costs, one colour a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnnkit.run.reporting.canvas import INK, MUTED, SERIES, new_figure, quiet_style, to_svg
from bnnkit.run.reporting.digest import rows_of, section
from bnnkit.run.reporting.sweep_digest import sweep_tables
from bnnkit.run.reporting.wording import as_float, bytes_text, clean, magnitude, setting_text
from bnnkit.run.sweeping.pareto import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Line", "Point", "pareto_panel", "pictures"]

_COLOURS = len(SERIES) - 1  # the first is that of the reference
_Plane = tuple[str, str, str, Callable[[Mapping[str, Any]], float], float]


@dataclass(frozen=True)
class Point:
    """One method at one target.

    Args:
        x: What it costs, the mean over seeds.
        y: Error, %, the mean over seeds.
        low: Lower end of the interval of the error.
        high: Upper end.
        on_front: Whether nothing dominates it.
    """

    x: float
    y: float
    low: float
    high: float
    on_front: bool


@dataclass(frozen=True)
class Line:
    """One method in one chart.

    Args:
        colour: Which of the series colours.
        points: One a target.
        seeds: `(x, y)` of every cell.
    """

    colour: int
    points: Sequence[Point]
    seeds: Sequence[tuple[float, float]]


def pareto_panel(
    lines: Sequence[Line],
    original: tuple[float, float],
    axis: str,
    key: str,
    *,
    more_is_better: bool = True,
) -> str:
    """Draw error over cost: small dots are cells, large ones means with the interval of the error.

    The grey stairs are the front.

    Args:
        lines: The methods.
        original: Cost and error of the original.
        axis: What the cost is, with its unit.
        key: What sets its ids apart from those of other charts.
        more_is_better: Whether the cost is counted as a ratio that grows as it falls.

    Returns:
        An SVG element.
    """
    with quiet_style():
        figure = new_figure(460, 290)
        axes = figure.add_subplot()
        corners = _stairs(lines, original, -1 if more_is_better else 1)
        style = "steps-pre" if more_is_better else "steps-post"
        x, y = zip(*corners, strict=True)
        axes.plot(x, y, drawstyle=style, color=MUTED, linewidth=0.9, zorder=1)
        axes.axhline(original[1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
        reach = [original[0], *(p.x for line in lines for p in line.points)]
        gap = 0.01 * (max(reach) - min(reach))  # whiskers at one cost stand beside each other
        for i, line in enumerate(lines):
            _draw_line(axes, line, gap * (i - (len(lines) - 1) / 2))
        axes.plot(*original, color=INK, marker="D", markersize=7, linestyle="", zorder=5)
        axes.set_ylim(_limits(lines, original[1]))
        axes.margins(x=0.06)
        write = magnitude if more_is_better else bytes_text
        axes.xaxis.set_major_formatter(lambda value, _: write(value))
        axes.grid(axis="y")
        axes.tick_params(length=2)
        axes.set_xlabel(axis)
        axes.set_ylabel("error, %")
        return to_svg(figure, key, f"Error over {axis}")


def _stairs(
    lines: Sequence[Line], original: tuple[float, float], sign: int
) -> list[tuple[float, float]]:
    """Return the corners of the front from left to right; the original may be one."""
    corners = [original, *((p.x, p.y) for line in lines for p in line.points if p.on_front)]
    return sorted(corners[i] for i in pareto_front([(y, sign * x) for x, y in corners]))


def _draw_line(axes: Axes, line: Line, aside: float) -> None:
    colour = SERIES[1 + line.colour % _COLOURS]
    points = sorted(line.points, key=lambda p: p.x)
    x, y = [p.x for p in points], [p.y for p in points]
    axes.plot(x, y, color=colour, linewidth=0.8, zorder=2)
    whiskers = [p for p in points if math.isfinite(p.low) and math.isfinite(p.high)]
    axes.vlines(
        [p.x + aside for p in whiskers], [p.low for p in whiskers], [p.high for p in whiskers],
        color=colour, linewidth=1.2, zorder=3,
    )  # fmt: skip
    if line.seeds:
        axes.plot(
            *zip(*line.seeds, strict=True), color=colour, marker="o", markersize=2.8, linestyle="",
            alpha=0.55, zorder=3,
        )  # fmt: skip
    for p in points:
        edge = INK if p.on_front else colour
        axes.plot(
            p.x, p.y, color=colour, marker="o", markersize=6, markeredgecolor=edge,
            markeredgewidth=1.2, zorder=4,
        )  # fmt: skip


def _limits(lines: Sequence[Line], original: float) -> tuple[float, float]:
    """Return the ends of the error axis: whiskers of very few seeds may leave the picture."""
    points = [p for line in lines for p in line.points]
    dots = [original, *(p.y for p in points), *(y for line in lines for _, y in line.seeds)]
    span = max(dots) - min(dots) or 1.0
    ends = [v for p in points for v in (p.low, p.high) if math.isfinite(v)]
    low = max(min([*dots, *ends]), min(dots) - span / 2, 0.0)
    high = min(max([*dots, *ends]), max(dots) + span / 2)
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def pictures(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template of a sweep draws; None where the report is of another command."""
    found = section(body, "sweep")
    if not rows_of(found, "rows"):
        return None
    methods = list(dict.fromkeys(clean(row.get("method")) for row in rows_of(found, "rows")))
    legend = [{"name": name, "colour": 1 + i % _COLOURS} for i, name in enumerate(methods)]
    charts = [] if math.isnan(_error(section(body, "original"))) else _charts(body, methods)
    return {"tables": sweep_tables(body), "panels": charts, "methods": legend}


def _error(node: Mapping[str, Any]) -> float:
    return as_float(node.get("error"))


def _charts(body: Mapping[str, Any], methods: Sequence[str]) -> list[dict[str, str]]:
    """Return a chart for multiply-accumulates, for each setting, and for the size."""
    settings = rows_of(section(body, "sweep"), "settings")
    original = section(body, "original")

    def ratio(row: Mapping[str, Any]) -> float:
        return as_float(section(row, "ratios").get("macs"))

    def speedup(i: int) -> Callable[[Mapping[str, Any]], float]:
        return lambda row: as_float(_at(row.get("speedup"), i))

    def size(row: Mapping[str, Any]) -> float:
        return as_float(row.get("file_bytes"))

    planes: list[_Plane] = [("Multiply-accumulates", "times fewer MACs", "macs", ratio, 1.0)]
    planes += [
        (name := setting_text(setting), "times as fast", name, speedup(i), 1.0)
        for i, setting in enumerate(settings)
    ]
    planes += [
        (
            "File size",
            "size of the weights as a file",
            "file",
            size,
            as_float(original.get("file_bytes")),
        )
    ]
    return [
        {
            "title": title,
            "svg": pareto_panel(
                [_line(body, i, name, front, cost) for i, name in enumerate(methods)],
                (at, _error(original)), axis, f"pareto{number}", more_is_better=front != "file",
            ),
        }
        for number, (title, axis, front, cost, at) in enumerate(planes)
    ]  # fmt: skip


def _at(values: object, i: int) -> object:
    return values[i] if isinstance(values, list) and i < len(values) else None


def _line(
    body: Mapping[str, Any],
    colour: int,
    method: str,
    front: str,
    cost: Callable[[Mapping[str, Any]], float],
) -> Line:
    found = section(body, "sweep")
    before = _error(section(body, "original"))
    points, seeds = [], []
    for row in rows_of(found, "rows"):
        if clean(row.get("method")) == method and math.isfinite(x := cost(row)):
            rise = section(row, "error_rise")
            low, high = (before + as_float(rise.get(end)) for end in ("low", "high"))
            fronts = row.get("front")
            on_front = isinstance(fronts, list) and front in fronts
            points.append(Point(x, _error(row), low, high, on_front))
    for cell in rows_of(found, "cells"):
        if clean(cell.get("method")) == method and math.isfinite(x := cost(cell)):
            seeds.append((x, _error(cell)))
    return Line(colour, points, seeds)
