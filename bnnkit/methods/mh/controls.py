r"""The rivals of the chain, from the same scores: rejection, importance resampling, Langevin.

References:
    S. Azadi et al., Discriminator rejection sampling (2019), eqs. 4-8.
    T. Che et al., Your GAN is secretly an energy-based model (2020), algorithm 1 (DDLS).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["importance_rows", "langevin", "rejection_rows"]

_SHARE = 0.95
_EPS = 1e-6


def rejection_rows(scores: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, float]:
    r"""Take bank rows by discriminator rejection sampling.

    A row is kept with probability :math:`\sigma(F)`,
    :math:`F = s - s_{\max} - \log(1 - e^{s - s_{\max} - \epsilon}) - \gamma`, where :math:`\gamma`
    is the 95th percentile of the rest, as the authors set it.

    Args:
        scores: Log p/q of the bank `[m]`.
        count: Rows wanted; the bank is gone through again where it does not give as many.
        generator: Source of the draws.

    Returns:
        Rows `[count]` and the acceptance rate.
    """
    known = scores.double().nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    gap = known - known.max()
    f = gap - torch.log1p(-(gap - _EPS).exp())
    f = f - torch.quantile(f[f.isfinite()][:1_000_000], _SHARE)
    keep = torch.sigmoid(f)
    kept: list[Tensor] = []
    found, passes = 0, 0
    while found < count:
        rows = (torch.rand(len(keep), generator=generator) < keep).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        kept.append(rows)
        found, passes = found + len(rows), passes + 1
    return torch.cat(kept)[:count], found / (passes * len(keep))


def importance_rows(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Take bank rows by sampling-importance-resampling: with replacement, by their weights.

    Args:
        scores: Log p/q of the bank `[m]`.
        count: Rows wanted.
        generator: Source of the draws.
    """
    weights = scores.double().nan_to_num(nan=-torch.inf).softmax(0)
    return torch.searchsorted(
        weights.cumsum(0), torch.rand(count, generator=generator, dtype=torch.float64)
    ).clamp_max(len(weights) - 1)


def langevin(
    z: Tensor,
    score: Callable[[Tensor], Tensor],
    log_prior: Callable[[Tensor], Tensor],
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    r"""Walk latents by discriminator-driven Langevin dynamics.

    .. math:: z' = z + \tfrac{\epsilon}{2} \nabla_z [\log p_0(z) + s(G(z))] + \sqrt\epsilon\, n.

    Args:
        z: Latents `[n, ...]`.
        score: From latents to log p/q of their images `[n]`, differentiable.
        log_prior: From latents to their log density `[n]`, up to a constant.
        steps: Steps of the walk.
        step_size: :math:`\epsilon`.
        generator: Source of the noise, on the CPU.

    Returns:
        Latents `[n, ...]`; a walk that leaves the finite numbers stays at its last finite place.
    """
    for _ in range(steps):
        at = z.detach().requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad((log_prior(at) + score(at)).sum(), at)
        noise = torch.randn(z.shape, generator=generator).to(z)
        moved = z + 0.5 * step_size * slope + step_size**0.5 * noise
        sound = moved.isfinite().flatten(1).all(1).view(-1, *[1] * (z.dim() - 1))
        z = torch.where(sound, moved, z).detach()
    return z
