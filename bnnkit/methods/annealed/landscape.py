"""The truth about a density in the plane, by integration: its constant, its modes, their weights.

A mode is a hill of the density that stands out: on any way from its top to a higher one the
density falls to half or less (a component of the superlevel sets of persistence log 2 or more),
and its top is within 6 nats of the highest. Each cell of the grid belongs to the hill that
steepest ascent leads to, so that every density has modes and weights and none has to be told.

References:
    H. Edelsbrunner, D. Letscher, A. Zomorodian, Topological persistence and simplification (2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.methods.annealed.energies import Energy

__all__ = ["Landscape", "survey"]

_STANDS_OUT = math.log(2)
_DEEP = 6.0  # nats
_TENTH = 0.1


@dataclass(frozen=True, eq=False)
class Landscape:
    """A density on the midpoints of square cells.

    Args:
        edge: Half of the side of the square.
        density: Normalised density `[cells, cells]`, float64; rows go along the first coordinate.
        log_z: Logarithm of the constant, in nats.
        owner: Number of the mode that each cell belongs to, `[cells, cells]`.
        weights: Probability of each mode, largest first, `[m]`.
    """

    edge: float
    density: Tensor
    log_z: float
    owner: Tensor
    weights: Tensor

    def shares(self, z: Tensor) -> Tensor:
        """Return the share of points `[n, 2]` in each mode, `[m]`; points outside go inward."""
        cell = self._cells(z)
        inside = self.owner[cell[:, 0], cell[:, 1]]
        return torch.bincount(inside, minlength=len(self.weights)).double() / len(z)

    def visited(self, shares: Tensor) -> int:
        """Return how many modes have a tenth of their weight or more."""
        return int((shares >= _TENTH * self.weights).sum())

    def tv(self, shares: Tensor) -> float:
        """Return the total variation of shares from the weights, in [0, 1]."""
        return 0.5 * float((shares - self.weights).abs().sum())

    def histogram(self, z: Tensor) -> Tensor:
        """Return the density of points `[n, 2]` on the same cells; those outside are left out."""
        cells = len(self.density)
        cell = self._cells(z[(z.abs() < self.edge).all(1)])
        counts = torch.bincount(cell[:, 0] * cells + cell[:, 1], minlength=cells**2)
        return counts.double().reshape(cells, cells) / (len(z) * (2 * self.edge / cells) ** 2)

    def _cells(self, z: Tensor) -> Tensor:
        """Return the row and column of points, `[n, 2]`."""
        cells = len(self.density)
        return ((z + self.edge) * (cells / (2 * self.edge))).long().clamp(0, cells - 1)


def survey(energy: Energy, cells: int = 240) -> Landscape:
    """Integrate a density and find its modes.

    Args:
        energy: The density.
        cells: Along each side.
    """
    side = 2 * energy.edge / cells
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) * side - energy.edge
    log_f = energy.log_density(torch.cartesian_prod(middle, middle))
    log_z = float(log_f.logsumexp(0)) + 2 * math.log(side)
    owner = torch.tensor(_hills(log_f.tolist(), cells))
    density = (log_f - log_z).exp()
    weights = torch.bincount(owner, weights=density) * side**2
    order = weights.argsort(descending=True)
    shape = (cells, cells)
    return Landscape(
        energy.edge, density.reshape(shape), log_z, order.argsort()[owner].reshape(shape),
        weights[order],
    )  # fmt: skip


def _hills(height: list[float], cells: int) -> list[int]:
    """Return the hill of each cell, numbered from 0."""
    top: list[int] = [-1] * len(height)  # a cell of the same hill, and at last its highest
    highest = max(height)

    def root(i: int) -> int:
        while top[i] != i:
            top[i] = top[top[i]]
            i = top[i]
        return i

    for i in sorted(range(len(height)), key=height.__getitem__, reverse=True):
        near = [j for j in _neighbours(i, cells) if top[j] >= 0]
        if not near:
            top[i] = i
            continue
        mine = root(max(near, key=height.__getitem__))
        top[i] = mine
        for other in {root(j) for j in near} - {mine}:
            low, high = sorted((root(mine), other), key=height.__getitem__)
            if height[low] - height[i] < _STANDS_OUT or height[low] < highest - _DEEP:
                top[low] = high
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(height))]


def _neighbours(i: int, cells: int) -> list[int]:
    """Return the eight cells around one."""
    row, column = divmod(i, cells)
    return [
        r * cells + c
        for r in range(max(0, row - 1), min(cells, row + 2))
        for c in range(max(0, column - 1), min(cells, column + 2))
        if (r, c) != (row, column)
    ]
