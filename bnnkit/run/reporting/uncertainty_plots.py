"""The charts of uncertainty: calibration, abstention, entropy, fit of the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bnnkit.run.reporting.canvas import (
    ACCENT,
    ACCENT_RGB,
    INK,
    RULE,
    SERIES,
    WARM,
    new_figure,
    quiet_style,
    to_svg,
)
from bnnkit.run.reporting.wording import as_float, magnitude, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Line",
    "correlation_map",
    "entropy_panel",
    "fit_histogram",
    "reliability_panel",
    "risk_coverage_panel",
    "share_interval",
]

_MOST_POINTS = 300  # of a line: a pixel or two apart
_MOST_LABELS = 32
_NOISY_COVERAGE = 0.05  # below it the risk is that of a handful of inputs


@dataclass(frozen=True)
class Line:
    """One line of an overlaid chart.

    Args:
        colour: Which of the series colours.
        x: Abscissae; what is not a finite number is left out.
        y: Ordinates, as many.
        dashed: Whether it is about another domain.
        strong: Whether it is drawn thicker, as the delivered method is.
    """

    colour: int
    x: Sequence[object]
    y: Sequence[object]
    dashed: bool = False
    strong: bool = False


def _points(line: Line) -> tuple[list[float], list[float]]:
    """Return the finite points of a line, thinned evenly where it has very many."""
    pairs = zip(map(as_float, line.x), map(as_float, line.y), strict=False)
    found = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if len(found) > _MOST_POINTS:
        step = (len(found) - 1) / (_MOST_POINTS - 1)
        found = [found[round(i * step)] for i in range(_MOST_POINTS)]
    return [x for x, _ in found], [y for _, y in found]


def _overlay(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines over each other, the strong ones on top."""
    for line in lines:
        x, y = _points(line)
        axes.plot(
            x,
            y,
            color=SERIES[line.colour % len(SERIES)],
            linewidth=2.4 if line.strong else 1.3,
            linestyle=(0, (3.5, 2)) if line.dashed else "-",
            zorder=3 if line.strong else 2,
        )


def _finish(axes: Axes, x: str, y: str) -> None:
    """Label both axes in the style of all charts."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y")
    axes.tick_params(length=2)


def share_interval(share: float, n: float) -> tuple[float, float]:
    """Return a 95 % interval of a share that holds the share itself.

    Args:
        share: In [0, 1].
        n: Of how many.

    Source: Agresti and Coull 1998, two successes and two failures added.
    """
    middle = (share * n + 2) / (n + 4)
    half = 2 * math.sqrt(max(middle * (1 - middle), 0) / (n + 4))
    return min(share, max(middle - half, 0)), max(share, min(middle + half, 1))


def reliability_panel(bins: Sequence[Mapping[str, object]], key: str, label: str) -> str:
    """Draw accuracy against confidence, the inputs of each bin below on a log axis.

    Source: Guo et al. 2017, figure 1. The whiskers are 95 % intervals.

    Args:
        bins: `confidence` and `accuracy` in [0, 1], `n`; an empty bin is left out.
        key: What sets its ids apart from those of other charts.
        label: What a screen reader says.

    Returns:
        An SVG element.
    """
    rows = [[as_float(b.get(name)) for name in ("confidence", "accuracy", "n")] for b in bins]
    rows = [row for row in rows if all(map(math.isfinite, row)) and row[2] > 0]
    with quiet_style():
        figure = new_figure(300, 260)
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        if rows:
            confidence, accuracy, count = zip(*rows, strict=True)
            top.vlines(confidence, confidence, accuracy, color=WARM, linewidth=4, alpha=0.45)
            ends = [share_interval(a, n) for _, a, n in rows]
            top.errorbar(
                confidence,
                accuracy,
                [
                    [a - low for a, (low, _) in zip(accuracy, ends, strict=True)],
                    [high - a for a, (_, high) in zip(accuracy, ends, strict=True)],
                ],
                color=ACCENT,
                linewidth=1.5,
                elinewidth=0.8,
                marker="o",
                markersize=3.5,
            )
            below.set_yscale("log")
            below.vlines(confidence, 0.7, count, color=ACCENT, linewidth=7)
            below.set_ylim(0.7, 2 * max(count))
            powers = range(0, math.ceil(math.log10(2 * max(count))), 2)
            below.set_yticks([10**p for p in powers], [magnitude(10**p) for p in powers])
            below.minorticks_off()
        top.set(xlim=(0, 1.02), ylim=(0, 1.02))
        ticks = [0, 0.25, 0.5, 0.75, 1]
        top.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        _finish(top, "", "accuracy")
        _finish(below, "confidence", "inputs")
        return to_svg(figure, key, label)


def risk_coverage_panel(lines: Sequence[Line], key: str, label: str) -> str:
    """Draw the error among the answered inputs over the share that is answered.

    Args:
        lines: Coverage in [0, 1] against risk in %.
        key: What sets its ids apart from those of other charts.
        label: What a screen reader says.

    Returns:
        An SVG element.
    """
    with quiet_style():
        figure = new_figure(460, 270)
        axes = figure.add_subplot()
        _overlay(axes, lines)
        settled = [
            y
            for line in lines
            for x, y in zip(*_points(line), strict=True)
            if x >= _NOISY_COVERAGE
        ]
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.08 * max([1e-3, *settled]))
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        _finish(axes, "inputs answered, the surest first, %", "error among them, %")
        return to_svg(figure, key, label)


def entropy_panel(lines: Sequence[Line], most: float, key: str, label: str) -> str:
    """Draw the empirical distribution of the predictive entropy, outside the domain dashed.

    Source: Atanov et al. 2019, figure 1.

    Args:
        lines: Entropy in nats against the share of inputs at or below it.
        most: The largest entropy, log k of k classes.
        key: What sets its ids apart from those of other charts.
        label: What a screen reader says.

    Returns:
        An SVG element.
    """
    with quiet_style():
        figure = new_figure(460, 270)
        axes = figure.add_subplot()
        _overlay(axes, lines)
        axes.set_xlim(0, most if most > 0 else 1)
        axes.set_ylim(0, 1.01)
        _finish(axes, "entropy of the prediction, nats", "share of inputs at or below")
        return to_svg(figure, key, label)


def fit_histogram(
    edges: Sequence[object],
    bars: Sequence[object],
    outline: Sequence[object],
    null: Sequence[object],
    limit: float,
    key: str,
) -> str:
    """Draw the Kolmogorov-Smirnov distances of the channels, and what a true fit would give.

    Args:
        edges: Edges of the bins, one more than there are counts.
        bars: Channels in each bin: the batch means.
        outline: Channels in each bin: the log batch deviations.
        null: Channels expected in each bin if the fitted distribution were the true one.
        limit: The distance that 5 % of true fits exceed; NaN draws none.
        key: What sets its ids apart from those of other charts.

    Returns:
        An SVG element.
    """
    ends = [as_float(edge) for edge in edges]
    size = len(ends) - 1

    def counts(values: Sequence[object]) -> list[float] | None:
        """Return a count for each bin, None where there are not as many."""
        found = [as_float(v) for v in values]
        return [v if math.isfinite(v) else 0.0 for v in found] if len(found) == size else None

    with quiet_style():
        figure = new_figure(460, 270)
        axes = figure.add_subplot()
        if size > 0 and all(map(math.isfinite, ends)):
            if found := counts(bars):
                axes.stairs(found, ends, color=ACCENT, alpha=0.45, fill=True)
            if found := counts(outline):
                axes.stairs(found, ends, color=WARM, linewidth=1.6)
            if found := counts(null):
                middles = [(a + b) / 2 for a, b in pairwise(ends)]
                axes.plot(middles, found, color=INK, linewidth=1.4)
            axes.set_xlim(ends[0], ends[-1])
        if math.isfinite(limit):
            axes.axvline(limit, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=5, integer=True)
        _finish(axes, "Kolmogorov-Smirnov distance to the fitted distribution", "channels")
        return to_svg(figure, key, "Kolmogorov-Smirnov distances of the channels")


def correlation_map(
    names: Sequence[object], matrix: Sequence[Sequence[float]], most: float, key: str
) -> str:
    """Draw correlations between layers as a square, darker (on dark: brighter) where larger.

    Args:
        names: Name of each layer; every so many are written where there are very many.
        matrix: Square, as many rows as names, not below 0; NaN is left blank.
        most: What the full colour stands for.
        key: What sets its ids apart from those of other charts.

    Returns:
        An SVG element.
    """
    import numpy as np

    size = len(matrix)
    picture = np.zeros((size, size, 4))
    picture[..., :3] = ACCENT_RGB
    picture[..., 3] = np.clip(np.nan_to_num(np.array(matrix, dtype=float)) / most, 0, 1)
    step = max(1, math.ceil(size / _MOST_LABELS))
    shown = range(0, size, step)
    with quiet_style():
        figure = new_figure(460, 350)
        axes = figure.add_subplot()
        axes.imshow(picture, interpolation="none")
        texts = [f"{shorten(names[i], 26)} · {i + 1}" for i in shown]
        axes.set_yticks(shown, texts, fontsize=8 if len(texts) > 16 else 9)
        wide = shown if size <= 20 else range(0, size, max(1, math.ceil(size / 16)))
        axes.set_xticks(wide, [str(i + 1) for i in wide], fontsize=9)
        axes.tick_params(length=0)
        axes.set_xlabel("layer")
        for spine in axes.spines.values():
            spine.set(visible=True, color=RULE)
        return to_svg(figure, key, f"Correlations between {size} layers")
