r"""Where chains begin: points far apart, each brought to a typical place by walks of its own.

Independent proposals cannot show what they miss: a chain that starts where both p and q are small
moves at once, and one that never sees another mode knows of none. So starts are drawn wide,
:math:`N(0, s^2 I)`, and each walks by the Metropolis-adjusted Langevin algorithm,

.. math:: x' = x + \tfrac{1}{2} \epsilon^2 \nabla \log p(x) + \epsilon z,

with a step size of its own that follows its acceptance towards .57. The walks know nothing of q:
one that ends in a mode which q misses starts a chain that never moves, and R-hat tells.

References:
    G. Roberts, R. Tweedie, Exponential convergence of Langevin distributions and their discrete
    approximations (1996); G. Roberts, J. Rosenthal, Optimal scaling of discrete approximations to
    Langevin diffusions (1998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.accept import metropolis_accept
from bnnkit.errors import UsageError
from bnnkit.methods.proposals.density import Density

__all__ = ["Walks", "walk"]

_AIM, _RATE = 0.574, 0.2  # of acceptance (Roberts and Rosenthal 1998), and of its following
_KEEP_EVERY = 10


@dataclass(frozen=True)
class Walks:
    """What walks found.

    Args:
        ends: Where they are now `[walks, dim]`.
        log_prob: Log densities there `[walks]`, float64.
        path: Places of their second half, thinned `[n, dim]`.
    """

    ends: Tensor
    log_prob: Tensor
    path: Tensor


def walk(
    density: Density,
    count: int,
    steps: int,
    spread: float,
    generator: torch.Generator,
    told: Callable[[], None] | None = None,
) -> Walks:
    """Start walks wide apart and let each follow the density for a while.

    Args:
        density: What they follow.
        count: How many.
        steps: Langevin steps of each.
        spread: Deviation s of the starts in each coordinate.
        generator: Source of all random numbers.
        told: Called after each step.

    Raises:
        UsageError: The density is zero or undefined wherever they could start.
    """
    x = _starts(density, count, spread, generator)
    log_p, slope = density.gradient(x)
    log_step = torch.full((count,), spread, dtype=torch.float64).div(10).log()
    path = []
    for i in range(steps):
        step = log_step.exp().float()[:, None]
        z = torch.randn(x.shape, generator=generator)
        y = x + step.square() / 2 * slope + step * z
        log_py, slope_y = density.gradient(y)
        back = (x - y - step.square() / 2 * slope_y) / step
        ratio = log_py - log_p + (z.square().sum(1) - back.square().sum(1)).double() / 2
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        accepted = metropolis_accept(ratio, uniform)
        x = torch.where(accepted[:, None], y, x)
        log_p = torch.where(accepted, log_py, log_p)
        slope = torch.where(accepted[:, None], slope_y, slope)
        rate = ratio.nan_to_num(nan=-torch.inf).clamp(max=0.0).exp()
        log_step = log_step + _RATE * (rate - _AIM)
        if i >= steps // 2 and i % _KEEP_EVERY == 0:
            path.append(x)
        if told is not None:
            told()
    return Walks(x, log_p, torch.cat([*path, x]))


def _starts(density: Density, count: int, spread: float, generator: torch.Generator) -> Tensor:
    """Draw starts with a density above zero; nearer to the origin where there are none."""
    dim = density.target.dim
    found: list[Tensor] = []
    for i in range(20):
        x = torch.randn(count, dim, generator=generator) * spread / 2 ** (i // 4)
        found.append(x[density.values(x).isfinite()])
        if sum(map(len, found)) >= count:
            return torch.cat(found)[:count]
    got = sum(map(len, found))
    raise UsageError(
        f"Starting chains on the target {density.target.name!r}",
        f"{got} of {20 * count} points drawn around the origin with a finite log density",
        f"the others are NaN or -inf, with deviations from {spread / 16:g} to {spread:g}",
        "Check the log density, choose another --spread, or move it to around the origin.",
    )
