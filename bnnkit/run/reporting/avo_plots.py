"""Densities side by side as one PNG: the truth, and what each method draws."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bnnkit.run.reporting.canvas import new_figure, quiet_style

__all__ = ["densities_png"]

_COLUMNS = 5
_SIDE = 130  # of a panel, in CSS pixels
_TITLE = 22
_DPI = 108


def densities_png(panels: Sequence[tuple[str, Tensor]], edge: float) -> bytes:
    """Draw densities on one scale of colours, that of the first.

    Args:
        panels: Title and density `[cells, cells]` of each, rows along the first coordinate.
        edge: Half of the side of their square.

    Returns:
        A PNG.
    """
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    most = float(panels[0][1].max())
    sink = io.BytesIO()
    with quiet_style():
        figure = new_figure(columns * _SIDE, rows * (_SIDE + _TITLE))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, (title, density) in zip(axes, panels, strict=False):
            ax.imshow(
                density.T.numpy(), origin="lower", extent=(-edge, edge, -edge, edge),
                cmap="viridis", vmin=0, vmax=most, interpolation="antialiased",
            )  # fmt: skip
            ax.set_title(title, fontsize=10)
        figure.savefig(sink, format="png", dpi=_DPI, metadata={"Software": None})
    return sink.getvalue()


def as_text(png: bytes) -> str:
    """Return a PNG in base64, as a report holds it."""
    return base64.b64encode(png).decode("ascii")


def coarser(density: Tensor, factor: int) -> Tensor:
    """Return the mean of square blocks of cells, `[n, n]` to `[n / factor, n / factor]`."""
    return torch.nn.functional.avg_pool2d(density[None], factor)[0]
