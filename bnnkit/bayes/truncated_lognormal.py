r"""The truncated log-normal noise of structured Bayesian pruning.

Neklyudov, Molchanov, Ashukha, Vetrov 2017, "Structured Bayesian Pruning via Log-Normal
Multiplicative Noise" (arXiv:1705.07283), section 3. A unit's output is multiplied by θ, whose
logarithm is a normal cut to [a, b]; the prior of log θ is uniform on the same interval.

========  ==================  ==================================================================
symbol    name in code        equation
========  ==================  ==================================================================
θ         `theta`             multiplicative noise, q(θ) = LogN_[a,b](θ | μ, σ²)
μ, σ      `mu`, `log_sigma`   location and scale of log θ before it is cut
a, b      `low`, `high`       ends of log θ; (-20, 0) in the paper, so that θ ≤ 1
α, β      `alpha`, `beta`     (a - μ) / σ, (b - μ) / σ
Z         (normaliser)        Φ(β) - Φ(α)
KL        `kl_to_log_uniform` log(b-a) - log σ - log Z - ½ log 2πe - (α φ(α) - β φ(β)) / 2Z
E[θ]      `mean`              exp(μ + σ²/2) (Φ(β-σ) - Φ(α-σ)) / Z
SNR       `snr`               E[θ] / sqrt(E[θ²] - E[θ]²); a unit is closed below 1
u         `uniform`           log θ = μ + σ Φ⁻¹(Φ(α) + u Z)
========  ==================  ==================================================================

These forms cancel or overflow in most of the plane: Z underflows when μ leaves [a, b] by many σ,
E[θ²] - E[θ]² loses every digit as σ → 0, and so does the KL divergence far outside the interval.
So the same integrals are taken by a Gauss-Legendre rule over the stretch where q has mass,
measured from its mode: a sum of positive terms, with nothing to cancel, that agrees with the
forms above to the rounding of the dtype. Checked for μ in [-20, 5] and log σ in [-20, 5].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.quadrature import truncated_normal_nodes
from bnnkit.bayes.truncated_normal import sample_log

__all__ = ["draw", "kl_to_log_uniform", "mean", "sample", "snr", "variance"]


def _pair(mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
    mu, log_sigma = torch.broadcast_tensors(mu, log_sigma)  # type: ignore[no-untyped-call]
    return mu, log_sigma


class _Divergence(torch.autograd.Function):
    """KL with its gradient; both are moments over the same nodes, taken once."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, log_sigma: Tensor, low: float, high: float) -> Tensor:  # noqa: ANN401
        sigma = log_sigma.exp()
        nodes = truncated_normal_nodes(mu, sigma, low, high)
        sigma = sigma.unsqueeze(-1)
        step = nodes.offset / sigma
        # log q without its constant, zero at the mode: -(z² - z₀²) / 2.
        log_q = -step * ((nodes.anchor - mu.unsqueeze(-1)) / sigma + 0.5 * step)
        # expm1 and log1p keep the digits of a posterior that is nearly the prior.
        excess = torch.expm1(log_q) * nodes.weight
        total = excess.sum(-1, keepdim=True)
        share = (excess + nodes.weight) / (1.0 + total)
        entropy = (share * log_q).sum(-1, keepdim=True)
        shrink = torch.log((high - low) / nodes.span)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            pull = share * (log_q - entropy)
            # d KL = Cov(log q, d log q): z/σ for μ, z² for log σ. Away from both ends the first
            # is zero, and the rounding of a tiny σ must not say otherwise.
            by_mu = (pull * step).sum(-1, keepdim=True) / sigma
            by_mu = torch.where(nodes.inside, 0.0, by_mu)
            by_log_sigma = -2.0 * (pull * log_q).sum(-1, keepdim=True)
            ctx.save_for_backward(by_mu.squeeze(-1), by_log_sigma.squeeze(-1))
        divergence = shrink + entropy - torch.log1p(total)
        return divergence.squeeze(-1).clamp(min=0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        by_mu, by_log_sigma = ctx.saved_tensors
        return grad * by_mu, grad * by_log_sigma, None, None


def kl_to_log_uniform(
    mu: Tensor, log_sigma: Tensor, low: float = -20.0, high: float = 0.0
) -> Tensor:
    """Return KL(q(θ) || LogU_[a,b](θ)) of each unit, in nats, never negative.

    Args:
        mu: Location of log θ, `[*]`, float32 or float64.
        log_sigma: Logarithm of its scale, `[*]`.
        low: Lower end of log θ.
        high: Upper end of log θ.

    Returns:
        `[*]`, differentiable once.

    References:
        Neklyudov et al. 2017, section 3: the KL term of the truncated evidence bound.

    >>> kl_to_log_uniform(torch.tensor(-10.0), torch.tensor(0.0))  # log 20 - ½ log 2πe
    tensor(1.5768)
    """
    mu, log_sigma = _pair(mu, log_sigma)
    divergence: Tensor = _Divergence.apply(mu, log_sigma, low, high)  # type: ignore[no-untyped-call]
    return divergence


def _moments(
    mu: Tensor, log_sigma: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return exp(mode), mean and deviation of θ, the latter two in units of exp(mode); `[*]`."""
    mu, log_sigma = _pair(mu, log_sigma)
    sigma = log_sigma.exp()
    nodes = truncated_normal_nodes(mu, sigma, low, high, tilt=2.0)
    mu, sigma = mu.unsqueeze(-1), sigma.unsqueeze(-1)
    step = nodes.offset / sigma
    log_q = -step * ((nodes.anchor - mu) / sigma + 0.5 * step)
    share = log_q.exp() * nodes.weight
    share = share / share.sum(-1, keepdim=True)
    # Measured in spans, so that the square of a tiny deviation stays a normal number.
    theta = torch.expm1(nodes.offset) / nodes.span
    centre = (share * theta).sum(-1, keepdim=True)
    spread = (share * (theta - centre).square()).sum(-1, keepdim=True).sqrt()
    parts = (nodes.anchor.exp(), 1.0 + nodes.span * centre, nodes.span * spread)
    return parts[0].squeeze(-1), parts[1].squeeze(-1), parts[2].squeeze(-1)


def mean(mu: Tensor, log_sigma: Tensor, low: float = -20.0, high: float = 0.0) -> Tensor:
    """Return E[θ] of each unit: what a kept unit is multiplied by for good.

    Args:
        mu: Location of log θ, `[*]`, float32 or float64.
        log_sigma: Logarithm of its scale, `[*]`.
        low: Lower end of log θ.
        high: Upper end of log θ.

    Returns:
        `[*]`, in (exp(low), exp(high)), differentiable.

    References:
        Neklyudov et al. 2017, section 3: the mean of the truncated log-normal.

    >>> mean(torch.tensor([0.0, -10.0]), torch.tensor([-5.0, 5.0]))
    tensor([0.9946, 0.0499])
    """
    scale, centre, _ = _moments(mu, log_sigma, low, high)
    return scale * centre


def variance(mu: Tensor, log_sigma: Tensor, low: float = -20.0, high: float = 0.0) -> Tensor:
    """Return Var[θ] = E[θ²] - E[θ]² of each unit.

    Args:
        mu: Location of log θ, `[*]`, float32 or float64.
        log_sigma: Logarithm of its scale, `[*]`.
        low: Lower end of log θ.
        high: Upper end of log θ.

    Returns:
        `[*]`, positive, differentiable.

    References:
        Neklyudov et al. 2017, section 3: the second moment of the truncated log-normal.
    """
    scale, _, spread = _moments(mu, log_sigma, low, high)
    return (scale * spread).square()


def snr(mu: Tensor, log_sigma: Tensor, low: float = -20.0, high: float = 0.0) -> Tensor:
    """Return the signal-to-noise ratio E[θ] / sd[θ] of each unit; a unit below 1 is closed.

    Args:
        mu: Location of log θ, `[*]`, float32 or float64.
        log_sigma: Logarithm of its scale, `[*]`.
        low: Lower end of log θ.
        high: Upper end of log θ.

    Returns:
        `[*]`, positive, differentiable.

    References:
        Neklyudov et al. 2017, section 3: SNR(θ) of the truncated log-normal.

    >>> snr(torch.tensor([0.0, -10.0]), torch.tensor([-5.0, 5.0])) < 1
    tensor([False,  True])
    """
    _, centre, spread = _moments(mu, log_sigma, low, high)
    return centre / spread


def sample(
    mu: Tensor, log_sigma: Tensor, uniform: Tensor, low: float = -20.0, high: float = 0.0
) -> Tensor:
    """Return θ at the given quantiles, with gradients in μ and log σ (not in `uniform`).

    Args:
        mu: Location of log θ, `[units]` or any shape that broadcasts to that of `uniform`.
        log_sigma: Logarithm of its scale, like `mu`.
        uniform: Quantiles in [0, 1], `[*]`; the two ends are moved inwards by one rounding.
        low: Lower end of log θ.
        high: Upper end of log θ.

    Returns:
        θ of the shape of `uniform`, in [exp(low), exp(high)].

    References:
        Neklyudov et al. 2017, section 3, by the inverse distribution function; the gradient by
        implicit reparametrisation (Figurnov et al. 2018, arXiv:1805.08498, equation 6).
    """
    mu, log_sigma = _pair(mu, log_sigma)
    return sample_log(mu, log_sigma, uniform, low, high).exp()


def draw(
    mu: Tensor,
    log_sigma: Tensor,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    low: float = -20.0,
    high: float = 0.0,
) -> Tensor:
    """Return random θ of a given shape, with gradients in μ and log σ.

    Args:
        mu: Location of log θ, any shape that broadcasts to `shape`.
        log_sigma: Logarithm of its scale, like `mu`.
        shape: Shape of the result, `[batch, units]` for noise per example.
        generator: Source of the uniform numbers, on the device of `mu`.
        low: Lower end of log θ.
        high: Upper end of log θ.
    """
    uniform = torch.rand(tuple(shape), generator=generator, dtype=mu.dtype, device=mu.device)
    return sample(mu, log_sigma, uniform, low, high)
