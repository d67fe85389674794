"""The objectives against brute force and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bnnkit.methods.proposals.objectives import objective

P, Q = Normal(0.0, 1.0), Normal(0.5, 1.4)


def log_ratio(x):
    return P.log_prob(x) - Q.log_prob(x)


@pytest.fixture
def draws():
    g = torch.Generator().manual_seed(0)
    n = 4000
    return 0.5 + 1.4 * torch.randn(n, generator=g), torch.randn(n, generator=g)


def uniform(n):
    return torch.full((n,), -math.log(n))


def test_reverse_and_symmetric_divergence(draws):
    offered, states = draws
    weight = uniform(len(offered))
    reverse, forward = kl_divergence(Q, P), kl_divergence(P, Q)
    vi = objective("vi", log_ratio(offered), weight)
    kl = objective("kl", log_ratio(offered), weight, log_ratio(states))
    assert float(vi) == pytest.approx(-float(reverse), abs=0.05)
    assert float(kl) == pytest.approx(-float(reverse + forward), abs=0.07)


def test_renyi_divergence_of_two_gaussians(draws):
    """Order 1.3 in closed form (Gil, Alajaji, Linder 2013)."""
    order, mixed = 1.3, 1.3 * Q.variance + (1 - 1.3) * P.variance
    exact = (
        (Q.scale / P.scale).log()
        + (Q.variance / mixed).log() / (2 * (order - 1))
        + order * (Q.loc - P.loc) ** 2 / (2 * mixed)
    )
    states = P.icdf((torch.arange(20_000) + 0.5) / 20_000)
    found = objective("renyi", None, None, log_ratio(states))
    assert float(found) == pytest.approx(-float(exact), abs=1e-3)
    assert float(exact) > float(kl_divergence(P, Q))


def test_acceptance_is_the_mean_over_all_pairs(draws):
    offered, states = (v[:40] for v in draws)
    weight = torch.randn(40, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    found = objective("ar", log_ratio(offered), weight, log_ratio(states))
    total = sum(
        float(weight[i].exp()) * min(1.0, math.exp(float(log_ratio(x) - log_ratio(y)))) / 40
        for i, x in enumerate(offered)
        for y in states
    )
    assert math.exp(float(found)) == pytest.approx(total, rel=1e-5)


def test_acceptance_lies_above_pinskers_bound(draws):
    offered, states = draws
    weight = uniform(len(offered))
    kl = objective("kl", log_ratio(offered), weight, log_ratio(states))
    rate = objective("ar", log_ratio(offered), weight, log_ratio(states)).exp()
    assert 1 - math.sqrt(-float(kl) / 2) <= float(rate) <= 1


@pytest.mark.parametrize("name", ["ar", "kl"])
def test_a_constant_of_the_density_cancels(draws, name):
    offered, states = draws
    weight = uniform(len(offered))
    plain = objective(name, log_ratio(offered), weight, log_ratio(states))
    shifted = objective(name, log_ratio(offered) + 7, weight, log_ratio(states) + 7)
    assert float(plain) == pytest.approx(float(shifted), abs=1e-4)


@pytest.mark.parametrize("name", ["vi", "ar", "kl"])
def test_the_gradient_is_that_of_finite_differences(draws, name):
    z, states = (v[:200].double() for v in draws)

    def value(shift):
        q = Normal(shift, torch.tensor(1.4, dtype=torch.float64))
        offered = shift + 1.4 * (z - 0.5) / 1.4
        a = Normal(0.0, 1.0).log_prob(offered) - q.log_prob(offered)
        b = Normal(0.0, 1.0).log_prob(states) - q.log_prob(states)
        return objective(name, a, uniform(200).double(), b)

    shift = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    value(shift).backward()
    h = 1e-6
    with torch.no_grad():
        slope = (value(shift + h) - value(shift - h)) / (2 * h)
    assert float(shift.grad) == pytest.approx(float(slope), rel=1e-3)


@pytest.mark.parametrize("name", ["vi", "ar", "kl"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_proposals_outside_the_support_leave_a_gradient(draws, name, bad):
    offered = log_ratio(draws[0][:50]).requires_grad_()
    full = torch.cat([offered, torch.tensor([bad])])
    found = objective(name, full, uniform(51), log_ratio(draws[1][:50]))
    found.backward()
    assert math.isfinite(float(found.detach()))
    assert bool(offered.grad.isfinite().all())


def test_a_rate_near_zero_still_has_a_direction():
    offered = torch.full((20,), -500.0, requires_grad=True)
    objective("ar", offered, uniform(20), torch.zeros(20)).backward()
    assert float(offered.grad.sum()) == pytest.approx(1, rel=1e-4)
