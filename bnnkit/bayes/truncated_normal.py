r"""Quantiles of a truncated normal, and how they move with its parameters.

x = μ + σ z, where z is a standard normal cut to [α, β] and u its quantile. Everything is done in
the frame where μ lies in the upper half of [a, b]: below it, the interval is mirrored. Then |β| is
the smaller of |α|, |β| and two cases are left, chosen for each unit by β:

- β above a switch: z = Φ⁻¹(v Φ(β)), where v = r + (1 - r) u and r = Φ(α) / Φ(β);
- β below it (μ is many σ outside, so that x piles up at the end b): the hazard of the normal is
  all but linear there, λ(|β| + s) = κ + c s with κ = φ(β) / Φ(β), c = κ (κ - |β|), so that
  E = -log v = κ s + c s² / 2 gives the distance σ s from the end, with relative error below
  E² / (3 β⁶) and without ever subtracting two large numbers.

The derivative at a fixed u is dx = -(∂F/∂·) / q(x) (implicit reparametrisation, Figurnov et al.
2018, arXiv:1805.08498):

    dx/dμ     = 1 - ((1-u) φ(α) + u φ(β)) / φ(z)
    dx/dlog σ = σ z - σ ((1-u) α φ(α) + u β φ(β)) / φ(z)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["sample_log"]

# Where the second case takes over: Φ(β) must be a normal number, and the two errors be small.
_SWITCH = {torch.float32: -6.0, torch.float64: -30.0}


class _Line(NamedTuple):
    """A line in the quantile: at `u = 0`, and the slope; each `[units]`."""

    start: Tensor
    slope: Tensor

    def at(self, uniform: Tensor) -> Tensor:
        return torch.addcmul(self.start, self.slope, uniform)


class _Units(NamedTuple):
    """What one unit needs for all its draws, each `[units]`; computed in float64.

    Args:
        tail: Whether the second case holds.
        mu: μ.
        sigma: σ, negative in the mirrored frame.
        edge: The end of the interval that is nearer to μ.
        v: The line v(u).
        cut: Φ(β).
        density: The line (1-u) φ(α) + u φ(β), times √2π.
        moment: The line σ ((1-u) α φ(α) + u β φ(β)), times √2π.
        bend: 2c / κ².
        rate: 2σ / κ, negative in the mirrored frame.
        lift: |β| c / κ.
    """

    tail: Tensor
    mu: Tensor
    sigma: Tensor
    edge: Tensor
    v: _Line
    cut: Tensor
    density: _Line
    moment: _Line
    bend: Tensor
    rate: Tensor
    lift: Tensor


def _line(mirrored: Tensor, at_alpha: Tensor, at_beta: Tensor, dtype: torch.dtype) -> _Line:
    """Return the line from the value at α (u = 0) to that at β, turned round where mirrored."""
    slope = at_beta - at_alpha
    start = torch.where(mirrored, at_beta, at_alpha)
    return _Line(start.to(dtype), torch.where(mirrored, -slope, slope).to(dtype))


def _units(mu: Tensor, log_sigma: Tensor, low: float, high: float) -> _Units:
    dtype = mu.dtype
    mu, sigma = mu.double(), log_sigma.double().exp()
    mirrored = mu < 0.5 * (low + high)
    sign = 1.0 - 2.0 * mirrored
    beta = torch.where(mirrored, mu - low, high - mu) / sigma
    width = (high - low) / sigma
    switch = _SWITCH[dtype]
    tail = beta < switch
    log_r = torch.special.log_ndtr(beta - width) - torch.special.log_ndtr(beta)
    # The first case sees only betas above the switch and the second only those below: the branch
    # that is not taken stays finite.
    bulk = beta.clamp(min=switch)
    alpha = bulk - width
    at_alpha, at_beta = (-0.5 * alpha.square()).exp(), (-0.5 * bulk.square()).exp()
    depth = -beta.clamp(max=switch)
    hazard = math.sqrt(2.0 / math.pi) / torch.special.erfcx(depth / math.sqrt(2.0))
    # c = 1 - 1/β² + ...; beyond 1e4 the difference below is all rounding.
    growth = torch.where(depth > 1e4, 1.0, hazard * (hazard - depth))
    signed = sign * sigma
    return _Units(
        tail=tail,
        mu=mu.to(dtype),
        sigma=signed.to(dtype),
        edge=torch.where(mirrored, low, high).to(dtype),
        v=_Line(
            torch.where(mirrored, 1.0, log_r.exp()).to(dtype),
            (-sign * torch.expm1(log_r)).to(dtype),
        ),
        # Not ndtr(bulk): torch takes it as (1 + erf) / 2, which is 0 below -8.
        cut=torch.special.log_ndtr(bulk).exp().to(dtype),
        density=_line(mirrored, at_alpha, at_beta, dtype),
        moment=_line(mirrored, signed * alpha * at_alpha, signed * bulk * at_beta, dtype),
        bend=(2.0 * growth / hazard.square()).to(dtype),
        rate=(2.0 * signed / hazard).to(dtype),
        lift=(depth * growth / hazard).to(dtype),
    )


class _SampleLog(torch.autograd.Function):
    """The quantile function, with both derivatives taken beside the value."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        mu: Tensor,
        log_sigma: Tensor,
        uniform: Tensor,
        low: float,
        high: float,
    ) -> Tensor:
        unit = _units(mu, log_sigma, low, high)
        rounding = 0.5 * torch.finfo(uniform.dtype).eps
        v = unit.v.at(uniform).clamp_(rounding, 1.0 - rounding)
        energy = v.log().neg_()
        root = torch.addcmul(torch.ones_like(unit.bend), unit.bend, energy).sqrt_()
        distance = unit.rate * energy / (1.0 + root)
        z = torch.special.ndtri(v.mul_(unit.cut))
        x = torch.where(
            unit.tail, unit.edge - distance, torch.addcmul(unit.mu, unit.sigma, z)
        ).clamp_(low, high)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            inverse = z.square().mul_(0.5).exp_()  # 1 / φ(z), over √2π
            by_mu = torch.where(
                unit.tail,
                unit.bend * energy / (root * (1.0 + root)),
                1.0 - unit.density.at(uniform) * inverse,
            )
            by_log_sigma = torch.where(
                unit.tail,
                -distance * (1.0 + unit.lift / root),
                unit.sigma * z - unit.moment.at(uniform) * inverse,
            )
            ctx.save_for_backward(by_mu, by_log_sigma)
            ctx.units = mu.shape
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, None, None, None]:
        by_mu, by_log_sigma = ctx.saved_tensors
        return (
            (grad * by_mu).sum_to_size(ctx.units),
            (grad * by_log_sigma).sum_to_size(ctx.units),
            None,
            None,
            None,
        )


def sample_log(mu: Tensor, log_sigma: Tensor, uniform: Tensor, low: float, high: float) -> Tensor:
    """Return x = log θ at the given quantiles, differentiable once in `mu` and `log_sigma`.

    Args:
        mu: Location, `[units]` or any shape that broadcasts to that of `uniform`.
        log_sigma: Logarithm of the scale, of the shape of `mu`.
        uniform: Quantiles in [0, 1], `[*]`; the two ends are moved inwards by one rounding.
        low: Lower end of the interval.
        high: Upper end of the interval.

    Returns:
        x of the shape of `uniform`, in [low, high].
    """
    result: Tensor = _SampleLog.apply(mu, log_sigma, uniform, low, high)  # type: ignore[no-untyped-call]
    return result
