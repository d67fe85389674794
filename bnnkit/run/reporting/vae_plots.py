"""The charts of an autoencoder: bounds over importance samples, and over steps of refinement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnnkit.run.reporting.canvas import ACCENT, MUTED, new_figure, quiet_style, to_svg
from bnnkit.run.reporting.digest import rows_of, section
from bnnkit.run.reporting.wording import as_float, count_text

__all__ = ["eval_panels", "refine_panels"]

_COLOURS = {"encoder": MUTED, "trained": MUTED, "refined": ACCENT}
"""The same in every chart: what was given, and what was made of it."""

_Line = tuple[str, Sequence[float], Sequence[float]]


def eval_panels(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the chart of `vae-eval`."""
    return _importance(body)


def refine_panels(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the charts of `vae-refine`."""
    return _importance(body) + _steps(body)


def _importance(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the mean importance-weighted bound over the number of samples."""
    lines: list[_Line] = []
    for kind in _COLOURS:
        points = [
            (as_float(row.get("samples")), as_float(row.get("log_p")))
            for row in rows_of(body, "importance_curve")
            if row.get("posterior") == kind
        ]
        points = sorted(p for p in points if p[0] >= 1 and math.isfinite(p[1]))
        if len(points) > 1:
            lines.append((kind, [x for x, _ in points], [y for _, y in points]))
    if not lines:
        return []
    is_bound = section(body, "model").get("is_bound") is not False
    title = f"Importance-weighted {'bound' if is_bound else 'objective'}, nats"
    svg = _panel(lines, "importance", title, "importance samples a datum", log=True)
    return [{"title": title, "svg": svg}]


def _steps(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the mean bound over the steps of the refinement."""
    curve = section(body, "refinement").get("curve")
    values = [as_float(value) for value in curve] if isinstance(curve, list) else []
    points = [(float(k), v) for k, v in enumerate(values) if math.isfinite(v)]
    if len(points) < 2:
        return []
    steps, bounds = zip(*points, strict=True)
    word = "bound" if section(body, "model").get("is_bound") is not False else "objective"
    title = f"{word.capitalize()} while refining, nats"
    return [{"title": title, "svg": _panel([("refined", steps, bounds)], "steps", title, "step")}]


def _panel(lines: Sequence[_Line], key: str, label: str, axis: str, *, log: bool = False) -> str:
    """Draw lines on one pair of axes.

    Args:
        lines: Name, x and y of each.
        key: What sets its ids apart from those of other charts.
        label: What is drawn, with its unit.
        axis: What x is.
        log: Whether the axis of x is logarithmic.

    Returns:
        An SVG element.
    """
    with quiet_style():
        figure = new_figure(460, 250)
        axes = figure.add_subplot()
        for name, x, y in lines:
            marker = "o" if len(x) <= 25 else None
            colour = _COLOURS[name]
            axes.plot(
                x, y, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=name
            )  # fmt: skip
        if len(lines) > 1:  # rising curves leave that corner free
            axes.legend(loc="lower right", frameon=False, labelcolor="linecolor")
        if log:
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.xaxis.set_major_formatter(lambda value, _: count_text(value))
        else:
            axes.locator_params(axis="x", integer=True, nbins=8)
        axes.locator_params(axis="y", nbins=6)
        axes.grid(axis="y")
        axes.tick_params(length=2)
        axes.margins(x=0.03, y=0.12)
        axes.set_xlabel(axis)
        return to_svg(figure, key, label)
