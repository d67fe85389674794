"""The charts of a filtered generator: figures over steps or chain length, shares of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bnnkit.run.reporting.canvas import ACCENT, INK, SERIES, new_figure, quiet_style, to_svg
from bnnkit.run.reporting.wording import as_float, magnitude, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["Bars", "Curve", "Frame", "class_bars", "curves_panel"]

BAR_COLOURS = {"before": SERIES[9], "after": ACCENT, "real": INK}
_DASHES = (0, (3.5, 2))
_MOST_BARS = 24
_MOST_LABELS = 32
_DECADE = 10.0
_MANY_DECADES = 2.5
_RUN_AWAY = 1e12
_MOST_POWERS = 8


def _drawable(value: float) -> bool:
    """Return whether a chart can show it: what ran away would leave no room for the rest."""
    return math.isfinite(value) and abs(value) < _RUN_AWAY


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Args:
        colour: Which of the series colours.
        x: Abscissae; what is not a finite number is left out.
        y: Ordinates, as many.
        spread: Half the length of the bar around each point; empty draws none.
        floor: Ordinate of a dashed line in the same colour; NaN draws none.
    """

    colour: int
    x: Sequence[object]
    y: Sequence[object]
    spread: Sequence[object] = field(default=())
    floor: float = math.nan

    def points(self, *, positive: bool) -> list[tuple[float, float, float]]:
        """Return the finite points and their spread.

        Args:
            positive: Whether only abscissae above zero can be drawn.
        """
        bars = [*map(as_float, self.spread), *[math.nan] * len(self.y)]
        rows = zip(map(as_float, self.x), map(as_float, self.y), bars, strict=False)
        return [
            (x, y, sd if _drawable(sd) and sd >= 0 else 0.0)
            for x, y, sd in rows
            if _drawable(x) and _drawable(y) and (x > 0 or not positive)
        ]


@dataclass(frozen=True)
class Frame:
    """The axes of a chart of curves.

    Args:
        title: What a screen reader says is drawn.
        x: Name of the abscissa.
        y: Name of the ordinate, with its unit.
        key: What sets its ids apart from those of other charts.
        scale: Ordinate: `zero` begins there, `near` begins by the values, `log` is logarithmic
            where the values span a decade, else begins at zero.
        log_x: Whether the abscissa is logarithmic; points at or below zero are left out.
    """

    title: str
    x: str
    y: str
    key: str
    scale: str = "zero"
    log_x: bool = False


@dataclass(frozen=True)
class Bars:
    """The class shares of one set of samples.

    Args:
        role: `before`, `after` or `real`.
        shares: One for each class, in %.
    """

    role: str
    shares: Sequence[float]


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    """Write round numbers on a logarithmic axis, as text of the page: few where it is long."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) <= _MANY_DECADES else (1,)
    powers = range(first, last + 1, max(1, math.ceil((last - first) / _MOST_POWERS)))
    ticks = [s * 10.0**p for p in powers for s in steps]
    ticks = [t for t in ticks if low / 1.25 <= t <= high * 1.25]
    axis.set_ticks(ticks, [magnitude(t) if t >= 1 else f"{t:.3g}" for t in ticks])
    axis.set_ticks([], minor=True)


def _log_y(axes: Axes, values: Sequence[float]) -> bool:
    """Use a logarithmic ordinate where linear would hide the small values."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    if not (low > 1 / _RUN_AWAY and high / low >= _DECADE):
        return False
    axes.set_yscale("log")
    axes.set_ylim(low / 1.25, high * 1.25)
    _log_ticks(axes.yaxis, low, high)
    return True


def _draw_curve(axes: Axes, curve: Curve, *, log_x: bool) -> None:
    """Draw points, the bars around them, and the floor below."""
    colour = SERIES[curve.colour % len(SERIES)]
    rows = curve.points(positive=log_x)
    if rows:
        x, y, sd = zip(*rows, strict=True)
        axes.errorbar(
            x,
            y,
            sd if any(sd) else None,
            color=colour,
            linewidth=1.8,
            elinewidth=1.1,
            capsize=2.5,
            marker="o" if len(x) <= 40 else "",
            markersize=3.5,
        )
    if _drawable(curve.floor):
        axes.axhline(curve.floor, color=colour, linewidth=1.2, linestyle=_DASHES)


def _set_ordinate(axes: Axes, curves: Sequence[Curve], frame: Frame) -> None:
    """Scale the ordinate."""
    points = [point for curve in curves for point in curve.points(positive=frame.log_x)]
    floors = [curve.floor for curve in curves if _drawable(curve.floor)]
    ends = [end for _, y, sd in points for end in (y - sd, y + sd)] + floors
    middles = [y for _, y, _ in points] + floors
    positive = all(y > 0 for y in middles)
    if frame.scale == "log" and positive and _log_y(axes, [v for v in ends if v > 0]):
        return
    axes.locator_params(axis="y", nbins=5, min_n_ticks=3)
    if frame.scale != "near" and ends and min(middles) >= 0:
        axes.set_ylim(0, 1.08 * max(ends) or 1)


def curves_panel(curves: Sequence[Curve], frame: Frame) -> str:
    """Draw curves over each other, their floors dashed.

    Args:
        curves: What is drawn.
        frame: The axes around them.

    Returns:
        An SVG element.
    """
    places = [x for curve in curves for x, _, _ in curve.points(positive=frame.log_x)]
    with quiet_style():
        figure = new_figure(460, 240)
        axes = figure.add_subplot()
        for curve in curves:
            _draw_curve(axes, curve, log_x=frame.log_x)
        if frame.log_x and places:
            axes.set_xscale("log")
            _log_ticks(axes.xaxis, min(places), max(places))
        else:
            axes.locator_params(axis="x", integer=True, nbins=7)
            axes.xaxis.set_major_formatter(lambda value, _: magnitude(value))
        _set_ordinate(axes, curves, frame)
        axes.set_xlabel(frame.x)
        axes.set_ylabel(frame.y)
        axes.grid(axis="y")
        axes.tick_params(length=2)
        axes.margins(x=0.03)
        return to_svg(figure, frame.key, f"{frame.title} over {frame.x}")


def _draw_bars(axes: Axes, sets: Sequence[Bars], size: int) -> None:
    """Draw the bars of each class side by side."""
    width = 0.8 / len(sets)
    for i, bars in enumerate(sets):
        places = [k - 0.4 + (i + 0.5) * width for k in range(size)]
        colour = BAR_COLOURS.get(bars.role, INK)
        axes.bar(places, _filled(bars.shares, size), width=0.92 * width, color=colour)


def _draw_steps(axes: Axes, sets: Sequence[Bars], size: int) -> None:
    """Draw outlines: side by side, bars of many classes would be thinner than a pixel."""
    edges = [k - 0.5 for k in range(size + 1)]
    for bars in sets:
        colour = BAR_COLOURS.get(bars.role, INK)
        axes.stairs(_filled(bars.shares, size), edges, color=colour, linewidth=1.4)


def _filled(shares: Sequence[float], size: int) -> list[float]:
    """Return a height for each class, nothing where none is known."""
    known = [v if _drawable(v) and v >= 0 else 0.0 for v in shares]
    return [*known, *[0.0] * size][:size]


def class_bars(names: Sequence[object], sets: Sequence[Bars], key: str) -> str:
    """Draw the share of each class before and after filtering and among real images.

    Args:
        names: Names of the classes; where there are fewer than classes, their numbers are shown.
        sets: What is compared, at least one.
        key: What sets its ids apart from those of other charts.

    Returns:
        An SVG element.
    """
    size = max(len(bars.shares) for bars in sets)
    labels = list(names) if len(names) >= size else list(range(size))
    shown = range(0, size, max(1, math.ceil(size / _MOST_LABELS)))
    with quiet_style():
        figure = new_figure(960, 230)
        axes = figure.add_subplot()
        (_draw_bars if size <= _MOST_BARS else _draw_steps)(axes, sets, size)
        long = max((len(str(labels[i])) for i in shown), default=0) > 80 / max(len(shown), 1)
        texts = [shorten(labels[i], 14) for i in shown]
        axes.set_xticks(list(shown), texts)
        if long:
            for text in axes.get_xticklabels():
                text.set(rotation=35, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.6, size - 0.4)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share of samples, %")
        axes.locator_params(axis="y", nbins=6)
        axes.grid(axis="y")
        axes.tick_params(length=0)
        return to_svg(figure, key, f"Shares of {size} classes")
