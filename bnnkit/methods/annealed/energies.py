"""Unnormalised densities in the plane that are hard to explore: energies A to F.

A, E and F are potentials 1, 2 and 3 of Rezende and Mohamed (2015), table 1 (E with a wall of
exp(-z₁²/10), F of exp(-z₁²/20), without which they have no finite integral); B is a ring cut into
arcs, C an ellipse, and D the mixture of four Gaussians, of weights .1, .3, .4 and .2.

References:
    C.-W. Huang, S. Tan, A. Lacoste, A. Courville, Improving explorability in variational inference
    with annealed variational objectives (2018), section 5; D. Rezende and S. Mohamed, Variational
    inference with normalizing flows (2015), table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bnnkit.errors import UsageError, did_you_mean

__all__ = ["ENERGIES", "Energy", "make_energy"]

ENERGIES = ("a", "b", "c", "d", "e", "f")
_CENTRES = ((-2.0, 0.0), (2.0, 0.0), (0.0, 2.0), (0.0, -2.0))
_WEIGHTS = (0.1, 0.3, 0.4, 0.2)
_VARIANCE = 0.2


@dataclass(frozen=True)
class Energy:
    """A density in the plane up to a constant.

    Args:
        name: `a` to `f`.
        log_density: log f in nats, `[*, 2]` to `[*]`.
        edge: Outside of the square [-edge, edge]² the density is negligible.
    """

    name: str
    log_density: Callable[[Tensor], Tensor]
    edge: float


def make_energy(name: str, spacing: float = 1.0) -> Energy:
    """Return an energy by its name.

    Args:
        name: One of `ENERGIES`, in either case.
        spacing: How many times as far from the origin the modes of D lie, 1 being a distance of 2.

    Raises:
        UsageError: There is no such energy, or it has no spacing.
    """
    key = name.lower()
    if key not in ENERGIES:
        raise UsageError(
            "Choosing an energy", repr(name), "it is not known",
            did_you_mean(key, ENERGIES) or "Use one of a, b, c, d, e, f.",
        )  # fmt: skip
    if key == "d":
        return Energy("d", partial(_four_modes, spacing=spacing), 2 * spacing + 3.0)
    if spacing != 1.0:
        raise UsageError(
            "Reading --spacing", f"{spacing:g} with energy {key!r}", "only energy d has it",
            "Leave it out, or use energy d.",
        )  # fmt: skip
    found, edge = _OTHERS[key]
    return Energy(key, found, edge)


def _bump(x: Tensor, centre: Tensor | float, width: float) -> Tensor:
    """Return log exp(-((x - centre) / width)² / 2)."""
    return -0.5 * ((x - centre) / width).square()


def _two_arcs(z: Tensor) -> Tensor:
    """Return log f of A: two modes on a circle of radius 2."""
    x = z[..., 0]
    return torch.logaddexp(_bump(x, 2.0, 0.6), _bump(x, -2.0, 0.6)) + _bump(_radius(z), 2.0, 0.4)


def _cut_ring(z: Tensor) -> Tensor:
    """Return log f of B: parts of a circle of radius 4."""
    x, y = z.unbind(-1)
    parts = torch.stack([_bump(x, 2.0, 0.6), _bump(x.sin(), 0.0, 0.5), _bump(x + y, -2.5, 0.6)])
    return parts.logsumexp(0) + _bump(_radius(z), 4.0, 1.0)


def _ellipse(z: Tensor) -> Tensor:
    """Return log f of C: an ellipse, one connected mode around nothing."""
    x, y = z.unbind(-1)
    return -(2 - _radius(torch.stack([x, y / math.sqrt(2)], -1))).square()


def _four_modes(z: Tensor, spacing: float) -> Tensor:
    """Return log f of D: four Gaussians of variance .2, normalised."""
    centres = spacing * z.new_tensor(_CENTRES)
    squares = (z[..., None, :] - centres).square().sum(-1)
    log_weights = z.new_tensor(_WEIGHTS).log() - math.log(2 * math.pi * _VARIANCE)
    return torch.logsumexp(log_weights - 0.5 * squares / _VARIANCE, -1)


def _wave(z: Tensor) -> Tensor:
    """Return log f of E: a band along a sine."""
    x, y = z.unbind(-1)
    return _bump(y, _sine(x), 0.4) - 0.1 * x.square()


def _forked_wave(z: Tensor) -> Tensor:
    """Return log f of F: a band that forks."""
    x, y = z.unbind(-1)
    fork = 3 * _bump(x, 2.0, 1.0).exp()
    bands = torch.logaddexp(_bump(y, _sine(x), 0.35), _bump(y, _sine(x) - fork, 0.35))
    return bands - 0.05 * x.square()


def _sine(x: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * x)


def _radius(z: Tensor) -> Tensor:
    """Return |z| with a finite gradient at the origin."""
    return (z.square().sum(-1) + 1e-12).sqrt()


_OTHERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "a": (_two_arcs, 5.0),
    "b": (_cut_ring, 9.0),
    "c": (_ellipse, 10.0),
    "e": (_wave, 12.0),
    "f": (_forked_wave, 16.0),
}
