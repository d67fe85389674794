"""The charts of surgery and training: ratios of the units, figures over the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnnkit.run.reporting.canvas import (
    ACCENT,
    ACCENT_RGB,
    INK,
    RULE,
    WARM,
    new_figure,
    quiet_style,
    to_svg,
)
from bnnkit.run.reporting.wording import magnitude, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve_panel", "loss_path", "snr_histogram", "snr_range", "snr_strips"]


def _finite_logs(values: Sequence[object]) -> list[float]:
    """Return log10 of the positive finite numbers."""
    numbers = (float(v) for v in values if isinstance(v, int | float))
    return [math.log10(v) for v in numbers if math.isfinite(v) and v > 0]


def snr_range(groups: Sequence[Sequence[object]]) -> tuple[float, float]:
    """Return a common axis for signal-to-noise ratios, as powers of ten around the threshold 1."""
    logs = [x for group in groups for x in _finite_logs(group)]
    low = min([-0.7, *(max(x, -3.0) for x in logs)])
    high = max([0.7, *(min(x, 6.0) for x in logs)])
    return low - 0.05, high + 0.05


def _snr_edges(bounds: tuple[float, float], bins: int) -> list[float]:
    """Return bin edges of which one is the threshold: no bin mixes closed and open units."""
    step = (bounds[1] - bounds[0]) / bins
    first, last = math.floor(bounds[0] / step), math.ceil(bounds[1] / step)
    return [i * step for i in range(first, last + 1)]


def _snr_axis(axes: Axes, bounds: tuple[float, float]) -> None:
    """Label a log10 axis with the ratios themselves."""
    step = max(1, math.ceil((bounds[1] - bounds[0]) / 5))
    first = math.ceil(bounds[0])
    ticks = [p for p in range(first, math.floor(bounds[1]) + 1) if p % step == 0]
    axes.set_xticks(ticks, [f"{10**p:g}" if p < 0 else magnitude(10**p) for p in ticks])
    axes.set_xlim(bounds)
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (3, 2)))


def snr_histogram(values: Sequence[object], bounds: tuple[float, float], key: str) -> str:
    """Draw the signal-to-noise ratios of one class on a log axis, the threshold 1 dashed.

    Args:
        values: SNR of each unit; what is not a positive finite number is left out.
        bounds: The axis, from `snr_range`.
        key: What sets its ids apart from those of other charts.

    Returns:
        An SVG element.
    """
    import numpy as np

    edges = _snr_edges(bounds, 36)
    step = edges[1] - edges[0]
    with quiet_style():
        figure = new_figure(300, 104)
        axes = figure.add_subplot()
        clipped = np.clip(_finite_logs(values), edges[0], edges[-1])
        counts, _ = np.histogram(clipped, bins=edges)
        colours = [WARM if left < -1e-9 else ACCENT for left in edges[:-1]]
        axes.bar(edges[:-1], counts, width=step * 0.9, align="edge", color=colours)
        _snr_axis(axes, (edges[0], edges[-1]))
        axes.locator_params(axis="y", nbins=3, integer=True)
        axes.grid(axis="y")
        axes.tick_params(length=2)
        closed = sum(1 for x in clipped if x < 0)
        return to_svg(figure, key, f"SNR of {len(clipped)} units, {closed} below 1")


def loss_path(values: Sequence[object], kept: int, key: str) -> str:
    """Draw what a class has lost in nats once 1, 2 ... of its units are gone, on a log axis.

    Args:
        values: Of each unit, what has been lost when it goes; no number counts as 0.
        kept: How many stay: the last to go.
        key: What sets its ids apart from those of other charts.

    Returns:
        An SVG element.
    """
    numbers = [float(v) if isinstance(v, int | float) else 0.0 for v in values]
    path = sorted(v if math.isfinite(v) else 0.0 for v in numbers)
    closed = len(path) - min(max(kept, 0), len(path))
    top = max([*path, 1e-12])
    shown = [max(v, 1e-4 * top) for v in path]
    with quiet_style():
        figure = new_figure(300, 104)
        axes = figure.add_subplot()
        colours = [WARM if i < closed else ACCENT for i in range(len(path))]
        axes.bar(range(1, len(path) + 1), shown, width=0.9, color=colours, bottom=0)
        axes.set_yscale("log")
        axes.set_ylim(1e-4 * top, 2 * top)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.grid(axis="y")
        axes.tick_params(length=2)
        return to_svg(figure, key, f"Loss of {len(path)} units in nats, {closed} closed")


def snr_strips(
    names: Sequence[str], groups: Sequence[Sequence[object]], bounds: tuple[float, float]
) -> str:
    """Draw one strip a class, darker where more of its units lie: for very many classes.

    Args:
        names: Name of each class.
        groups: SNR of the units of each class.
        bounds: The axis, from `snr_range`.

    Returns:
        An SVG element.
    """
    import numpy as np

    edges = _snr_edges(bounds, 96)
    picture = np.zeros((len(groups), len(edges) - 1, 4))
    picture[..., :3] = ACCENT_RGB
    for row, values in enumerate(groups):
        counts, _ = np.histogram(np.clip(_finite_logs(values), edges[0], edges[-1]), bins=edges)
        picture[row, :, 3] = np.sqrt(counts / max(counts.max(), 1))
    with quiet_style():
        figure = new_figure(960, 15 * len(groups) + 60)
        axes = figure.add_subplot()
        extent = (edges[0], edges[-1], len(groups) - 0.5, -0.5)
        axes.imshow(picture, aspect="auto", interpolation="none", extent=extent)
        axes.set_yticks(range(len(names)), [shorten(name, 44) for name in names])
        _snr_axis(axes, (edges[0], edges[-1]))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", top=True, labeltop=True)
        axes.set_xlabel("signal-to-noise ratio")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        for row in range(5, len(groups), 5):
            axes.axhline(row - 0.5, color=RULE, linewidth=0.6)
        return to_svg(figure, "strips", f"SNR of the units of {len(groups)} classes")


def curve_panel(
    epochs: Sequence[float], values: Sequence[float], key: str, label: str, *, zero: bool = False
) -> str:
    """Draw one figure over the epochs.

    Args:
        epochs: Epoch of each value.
        values: The figure; NaN leaves a gap.
        key: What sets its ids apart from those of other charts.
        label: What is drawn, with its unit.
        zero: Whether the axis begins at 0.

    Returns:
        An SVG element.
    """
    with quiet_style():
        figure = new_figure(460, 190)
        axes = figure.add_subplot()
        marker = "o" if len(epochs) <= 20 else None
        axes.plot(epochs, values, color=ACCENT, linewidth=1.8, marker=marker, markersize=3.5)
        axes.locator_params(axis="x", integer=True, nbins=8)
        axes.locator_params(axis="y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: magnitude(value))
        axes.grid(axis="y")
        axes.tick_params(length=2)
        axes.set_xlabel("epoch")
        axes.margins(x=0.03)
        finite = [v for v in values if math.isfinite(v)]
        if zero and finite and max(finite) > 0:
            axes.set_ylim(0, max(finite) * 1.08)
        return to_svg(figure, key, label)
