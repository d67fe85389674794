r"""Annealed importance sampling of log p(x), with Hamiltonian transitions.

Between a start q_0 (the prior, or a posterior) and the target lie

.. math:: \log f_t(z) = (1 - \beta_t) \log q_0(z) + \beta_t \log p(x, z), \quad
   \log w = \sum_t (\beta_t - \beta_{t-1}) (\log p(x, z_{t-1}) - \log q_0(z_{t-1}))

where z_t comes from z_{t-1} by a transition that leaves f_t invariant. E[w] = p(x), so that the
log of a mean of weights is on average a lower bound of log p(x), and log w alone is a lower one.

Step sizes are set by a pilot run of other chains, one for each datum and temperature, and then
kept: a step that followed the chain's own past would spoil E[w] = p(x).

References:
    Neal, Annealed importance sampling (2001); Wu, Burda, Salakhutdinov and Grosse, On the
    quantitative analysis of decoder-based generative models (2017), secs. 3-4 (sigmoid schedule);
    Neal, MCMC using Hamiltonian dynamics (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.importance import effective_sample_size
from bnnkit.bayes.posteriors import Diagonal, Posterior
from bnnkit.methods.vae.latent_model import LatentModel

__all__ = ["Annealed", "annealed_importance", "sigmoid_schedule"]

_TARGET = 0.65
"""Share of proposals that shall be accepted (Neal 2011, sec. 4.4)."""
_FIRST_STEP, _GROW, _SHRINK = 0.2, 1.05, 0.92
_SCALE_DRAWS = 64


@dataclass(frozen=True, eq=False)
class Annealed:
    """Estimates of log p(x) of n data.

    Args:
        log_p: Log of the mean weight of the chains, in nats `[n]`.
        se: Its standard error by the delta method `[n]`; infinite for one chain.
        ess: Chains that the weights are worth `[n]`.
        acceptance: Share of accepted transitions `[n]`.
    """

    log_p: Tensor
    se: Tensor
    ess: Tensor
    acceptance: Tensor


def sigmoid_schedule(temperatures: int, width: float = 4.0) -> Tensor:
    """Return betas from 0 to 1 `[temperatures + 1]`, closest at both ends (Wu et al. 2017)."""
    t = torch.linspace(-width, width, temperatures + 1, dtype=torch.float64).sigmoid()
    return (t - t[0]) / (t[-1] - t[0])


@torch.no_grad()
def annealed_importance(
    model: LatentModel,
    x: Tensor,
    *,
    generator: torch.Generator,
    start: Posterior | None = None,
    chains: int = 16,
    temperatures: int = 500,
    leapfrog: int = 10,
    pilot_chains: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Annealed:
    """Return log p(x) of all data, by chains that run side by side.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        generator: Source of all random numbers.
        start: q_0, of the n data; None takes N(0, I).
        chains: Chains per datum behind the estimate.
        temperatures: Transitions of each chain.
        leapfrog: Leapfrog steps of a transition.
        pilot_chains: Chains per datum that set the step sizes.
        progress: Called with the number of transitions done, and of all.
    """
    if start is None:
        zero = x.new_zeros(len(x), model.latent)
        start = Diagonal(zero, zero)
    walk = _Walk(model, x, start, leapfrog, generator)
    betas = sigmoid_schedule(temperatures).tolist()
    total = 2 * temperatures

    def tick(done: int) -> None:
        if progress is not None:
            progress(done, total)

    steps = walk.tune(betas, pilot_chains, tick)
    log_w, accepted = walk.run(betas, chains, steps, lambda t: tick(temperatures + t))
    sum_w = log_w.logsumexp(0)
    ess = effective_sample_size(log_w)
    se = (1 / ess - 1 / chains).clamp_min(0).mul(chains / max(chains - 1, 1)).sqrt()
    se = se if chains > 1 else torch.full_like(se, math.inf)
    return Annealed(sum_w - math.log(chains), se, ess, accepted)


class _Walk:
    """Chains of all data between q_0 and the posterior."""

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        start: Posterior,
        leapfrog: int,
        generator: torch.Generator,
    ) -> None:
        self._model, self._x, self._start = model, x, start
        self._leapfrog, self._generator = leapfrog, generator
        z, _ = start.sample(self._normal(_SCALE_DRAWS))
        self._scale = z.std(0)  # widths of q_0, so that one step size serves all latents

    def tune(self, betas: list[float], chains: int, tick: Callable[[int], None]) -> Tensor:
        """Return step sizes `[temperatures, n]` from a run of their own."""
        z, _ = self._start.sample(self._normal(chains))
        size = z.new_full((len(self._x),), _FIRST_STEP)
        sizes = []
        for t, beta in enumerate(betas[1:]):
            sizes.append(size)
            z, rate = self._transition(z, beta, size)
            size = size * torch.where(rate.mean(0) > _TARGET, _GROW, _SHRINK)
            tick(t + 1)
        return torch.stack(sizes)

    def run(
        self, betas: list[float], chains: int, sizes: Tensor, tick: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        """Return log weights `[chains, n]`, float64, and the share accepted `[n]`."""
        z, _ = self._start.sample(self._normal(chains))
        log_w = z.new_zeros(z.shape[:2], dtype=torch.float64)
        accepted = z.new_zeros(len(self._x))
        for t, beta in enumerate(betas[1:]):
            ratio = self._model.log_joint(self._x, z) - self._start.log_prob(z)
            log_w += (beta - betas[t]) * ratio.double()
            z, rate = self._transition(z, beta, sizes[t])
            accepted += rate.mean(0)
            tick(t + 1)
        return log_w, accepted / (len(betas) - 1)

    def _transition(self, z: Tensor, beta: float, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next states, and the probabilities of acceptance `[chains, n]`."""
        momentum = self._normal(len(z))
        step = size.unsqueeze(-1) * self._scale
        value, slope = self._density(z, beta)
        here, p = value - 0.5 * momentum.square().sum(-1), momentum
        q = z
        for _ in range(self._leapfrog):
            p = p + 0.5 * step * slope
            q = q + step * p
            value, slope = self._density(q, beta)
            p = p + 0.5 * step * slope
        change = value - 0.5 * p.square().sum(-1) - here
        rate = change.nan_to_num(nan=-math.inf).clamp_max(0).exp()  # NaN is never accepted
        uniform = torch.rand(
            rate.shape, generator=self._generator, device=self._generator.device
        ).to(rate)
        return torch.where((uniform < rate).unsqueeze(-1), q, z), rate

    def _density(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """Return log f and its gradient."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            start, target = self._start.log_prob(z), self._model.log_joint(self._x, z)
            value = (1 - beta) * start + beta * target
            (slope,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), slope

    def _normal(self, count: int) -> Tensor:
        shape = (count, len(self._x), self._model.latent)
        source = self._generator
        return torch.randn(shape, generator=source, device=source.device).to(self._x.device)
