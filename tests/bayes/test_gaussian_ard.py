"""Priors of single weights and of groups against integrals, loops and finite differences."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

from bnnkit.bayes.gaussian_ard import (
    ard_kl,
    ard_precision,
    fit_precisions,
    group_kl,
    log_alpha,
    sparse_vd_kl,
)

EXTREMES = [0.0, 1e-30, 1e-12, 1e-3, 1.0, 50.0]


def weights(seed=0, shape=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(shape, generator=generator, dtype=torch.float64)
    log_sigma = torch.randn(shape, generator=generator, dtype=torch.float64) - 1.0
    return mu, log_sigma


def log_uniform_divergence(alpha):
    """KL from the improper log-uniform prior by integration, zero for α → ∞.

    E log|ε|, ε ~ N(1, α), minus ½ log α, plus ½ (γ + log 2), the limit of the first two.
    """
    scale = math.sqrt(alpha)

    def integrand(t, sign):  # z = -1/scale ± t², which takes the pole of the logarithm away
        return scipy.stats.norm.pdf(-1 / scale + sign * t * t) * math.log(scale * t * t) * 2 * t

    reach = math.sqrt(1 / scale + 40)
    centre = math.sqrt(1 / scale)  # where the normal has its peak
    expected = sum(
        scipy.integrate.quad(integrand, 1e-12, reach, args=(sign,), points=[centre], limit=500)[0]
        for sign in (-1, 1)
    )
    return expected - 0.5 * math.log(alpha) + 0.5 * (0.5772156649 + math.log(2))


@pytest.mark.parametrize("log_ratio", [-6.0, -3.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0])
def test_sparse_vd_is_the_divergence_from_the_log_uniform_prior(log_ratio):
    alpha = math.exp(log_ratio)
    got = float(sparse_vd_kl(torch.tensor(1.0), torch.tensor(0.5 * log_ratio)))
    assert got == pytest.approx(log_uniform_divergence(alpha), abs=0.01)  # the fit of eq. 14


def test_sparse_vd_depends_on_alpha_alone():
    a = sparse_vd_kl(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]))
    b = sparse_vd_kl(torch.tensor([4.0, -2.0]), torch.tensor([1.0, 1.0]) + math.log(2))
    torch.testing.assert_close(a, b)


def test_ard_is_the_divergence_from_the_best_gaussian_prior():
    mu, log_sigma = weights()
    q = Normal(mu, log_sigma.exp())

    def divergence(precision):
        return kl_divergence(q, Normal(torch.zeros_like(mu), precision.rsqrt()))

    best = ard_precision(mu, log_sigma)
    torch.testing.assert_close(ard_kl(mu, log_sigma), divergence(best))
    for factor in (0.9, 1.1):
        assert bool((divergence(best * factor) > divergence(best)).all())


def test_ard_equals_monte_carlo():
    mu, sigma = 0.7, 0.4
    alpha = float(ard_precision(torch.tensor(mu), torch.tensor(math.log(sigma))))
    draws = mu + sigma * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    each = Normal(mu, sigma).log_prob(draws) - Normal(0.0, alpha**-0.5).log_prob(draws)
    error = float(each.std()) / len(each) ** 0.5
    exact = float(ard_kl(torch.tensor(mu), torch.tensor(math.log(sigma))))
    assert exact == pytest.approx(float(each.mean()), abs=4 * error)


@pytest.mark.parametrize("term", [sparse_vd_kl, ard_kl])
def test_terms_and_their_gradients_are_finite_at_the_ends(term):
    mu = torch.tensor(EXTREMES).repeat_interleave(5).requires_grad_()
    log_sigma = torch.tensor([-20.0, -10.0, 0.0, 2.0, 5.0]).repeat(6).requires_grad_()
    value = term(mu, log_sigma)
    value.sum().backward()
    for got in (value, mu.grad, log_sigma.grad):
        assert bool(torch.isfinite(got).all())
    assert bool((value >= 0).all())


@pytest.mark.parametrize("term", [sparse_vd_kl, ard_kl])
def test_gradients_are_finite_differences(term):
    mu, log_sigma = weights()
    assert torch.autograd.gradcheck(term, (mu.requires_grad_(), log_sigma.requires_grad_()))


def by_loop(mu, log_sigma, tau, gamma):
    total = 0.0
    for i in range(mu.shape[0]):
        for j in range(mu.shape[1]):
            q = Normal(mu[i, j], log_sigma[i, j].exp())
            p = Normal(torch.zeros(()).double(), (tau[i] * gamma[j]).rsqrt())
            total += float(kl_divergence(q, p))
    return total


def test_group_prior_equals_a_loop_over_weights():
    mu, log_sigma = weights()
    tau = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)
    gamma = torch.linspace(2.0, 0.1, 5, dtype=torch.float64)
    got = group_kl(
        mu.square() + torch.exp(2 * log_sigma),
        2 * log_sigma.sum(),
        tau.log()[:, None],
        gamma.log()[None],
    )
    assert float(got) == pytest.approx(by_loop(mu, log_sigma, tau, gamma))


def fitted(mu, log_sigma, rows, columns, sweeps):
    moment = mu.square() + torch.exp(2 * log_sigma)
    zeros = torch.zeros(6, 1).double(), torch.zeros(1, 5).double()
    pair = fit_precisions(moment, *zeros, rows=rows, columns=columns, sweeps=sweeps)
    return float(group_kl(moment, 2 * log_sigma.sum(), *pair)), pair


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_closed_forms_find_what_an_optimiser_finds(rows, columns):
    mu, log_sigma = weights()
    moment = (mu.square() + torch.exp(2 * log_sigma)).numpy()
    log_det = float(2 * log_sigma.sum())

    def objective(v):
        u = v[:6, None] * rows + v[None, 6:] * columns
        return 0.5 * (float((torch.tensor(u).exp().numpy() * moment - u - 1).sum()) - log_det)

    best = scipy.optimize.minimize(objective, torch.zeros(11).double().numpy()).fun
    got, _ = fitted(mu, log_sigma, rows, columns, sweeps=50)
    assert got == pytest.approx(best, rel=1e-6)
    if not (rows and columns):
        assert fitted(mu, log_sigma, rows, columns, sweeps=1)[0] == pytest.approx(got)


def test_every_sweep_lowers_the_divergence():
    values = [fitted(*weights(), True, True, sweeps)[0] for sweeps in range(6)]
    assert values == sorted(values, reverse=True)


def test_a_precision_for_every_weight_is_ard():
    mu, log_sigma = weights()
    moment = mu.square() + torch.exp(2 * log_sigma)
    pair = fit_precisions(
        moment, torch.zeros_like(mu), torch.zeros(1, 1).double(), rows=True, columns=False
    )
    torch.testing.assert_close(pair[0].exp(), ard_precision(mu, log_sigma))
    got = group_kl(moment, 2 * log_sigma.sum(), *pair)
    torch.testing.assert_close(got, ard_kl(mu, log_sigma).sum())


def test_alpha_of_single_weights_and_of_groups():
    torch.testing.assert_close(
        log_alpha(torch.tensor([4.0, 0.25])), torch.tensor([4.0, 0.25]).log().neg()
    )
    torch.testing.assert_close(log_alpha(torch.tensor(2.0), 10), torch.tensor(5.0).log())
    assert bool(torch.isfinite(log_alpha(torch.zeros(()))))
    # Independent weights of equal α: what the module says that closing them changes at most.
    r = math.exp(-3)
    assert 0 < 0.5 * (r - math.log1p(r)) < 7e-4
