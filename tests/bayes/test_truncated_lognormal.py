"""The truncated log-normal against scipy, mpmath, Monte Carlo and finite differences."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import scipy.stats
import torch

from bnnkit.bayes import draw, kl_to_log_uniform, mean, sample, snr, variance

LOW, HIGH = -20.0, 0.0
CLOSED = [kl_to_log_uniform, mean, variance, snr]
DTYPES = [torch.float32, torch.float64]
# Ordinary, near an end, nearly uniform, and with all the mass in a tail beyond an end.
POSTERIORS = [(-3.0, -1.0), (0.0, -5.0), (0.3, -2.5), (-20.0, 0.0), (-7.0, 1.5), (-4.0, 5.0)]


def grid(dtype, points=41):
    """Every pair of (μ, log σ) over the box that the issue names, its corners included."""
    mu = torch.linspace(-20, 5, points, dtype=dtype)
    mu = torch.cat([mu, torch.tensor([0.0, 1e-6, -1e-6, -19.999, -10.0], dtype=dtype)])
    log_sigma = torch.linspace(-20, 5, points, dtype=dtype)
    return [part.reshape(-1) for part in torch.meshgrid(mu, log_sigma, indexing="ij")]


def reference(mu, log_sigma):
    """KL, mean, variance and SNR by the paper's closed forms, in 150 digits."""
    with mp.workdps(150):
        mu, sigma = mp.mpf(mu), mp.e ** mp.mpf(log_sigma)

        def mass(k):
            alpha, beta = (LOW - mu) / sigma - k * sigma, (HIGH - mu) / sigma - k * sigma
            if beta <= 0:
                return mp.ncdf(beta) - mp.ncdf(alpha)
            return 1 - mp.ncdf(-beta) - mp.ncdf(alpha)

        z, alpha, beta = mass(0), (LOW - mu) / sigma, (HIGH - mu) / sigma
        ends = (alpha * mp.npdf(alpha) - beta * mp.npdf(beta)) / (2 * z)
        kl = mp.log((HIGH - LOW) / (sigma * z)) - mp.log(2 * mp.pi * mp.e) / 2 - ends
        first, second = (mp.e ** (k * mu + (k * sigma) ** 2 / 2) * mass(k) / z for k in (1, 2))
        spread = second - first**2
        return [float(x) for x in (kl, first, spread, first / mp.sqrt(spread))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_closed_forms_equal_the_papers_in_150_digits(dtype, tolerance):
    for mu in (-20.0, -19.9, -10.0, -3.0, -0.1, 0.0, 0.01, 0.5, 5.0):
        for log_sigma in (-20.0, -10.0, -7.0, -5.0, -3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0):
            at = torch.tensor([mu, log_sigma], dtype=dtype)
            truth = reference(*at.tolist())
            for function, expected in zip(CLOSED, truth, strict=True):
                got = function(at[0], at[1]).item()
                assert got == pytest.approx(expected, rel=tolerance, abs=tolerance**1.5), (
                    function.__name__,
                    mu,
                    log_sigma,
                )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", CLOSED)
def test_closed_forms_and_gradients_are_finite_everywhere(function, dtype):
    at = [part.requires_grad_() for part in grid(dtype)]
    value = function(*at)
    assert value.isfinite().all()
    assert (value >= 0).all()
    if function is not kl_to_log_uniform:
        assert (value > 0).all()
    for gradient in torch.autograd.grad(value.sum(), at):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_and_gradients_are_finite_everywhere(dtype):
    mu, log_sigma = (part.requires_grad_() for part in grid(dtype))
    tiny = torch.finfo(dtype).tiny
    uniform = torch.tensor(
        [0.0, tiny, 1e-12, 1e-7, 1e-3, 0.3, 0.5, 0.9, 1 - 1e-6, 1.0], dtype=dtype
    )
    theta = sample(mu, log_sigma, uniform[:, None].expand(-1, len(mu)))
    assert theta.isfinite().all()
    assert (theta >= math.exp(LOW) * (1 - 1e-5)).all()
    assert (theta <= 1).all()
    assert (theta[1:] >= theta[:-1] * (1 - 1e-5)).all()  # a quantile function rises
    for row in theta:
        for gradient in torch.autograd.grad(row.sum(), (mu, log_sigma), retain_graph=True):
            assert gradient.isfinite().all()


def test_snr_decides_alike_in_both_precisions():
    mu, log_sigma = grid(torch.float32, points=201)
    single, double = snr(mu, log_sigma), snr(mu.double(), log_sigma.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=0)
    clear = (double - 1).abs() > 1e-5
    assert ((single < 1) == (double < 1))[clear].all()


@pytest.mark.parametrize("function", [kl_to_log_uniform, mean])
def test_single_equals_double(function):
    mu, log_sigma = grid(torch.float32)
    double = function(mu.double(), log_sigma.double())
    torch.testing.assert_close(function(mu, log_sigma).double(), double, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("function", CLOSED)
def test_closed_form_gradients_equal_finite_differences(function):
    at = [part[::7].requires_grad_() for part in grid(torch.float64, points=24)]
    step = 1e-5
    for i, gradient in enumerate(torch.autograd.grad(function(*at).sum(), at)):
        ends = []
        for sign in (1, -1):
            moved = [part.detach().clone() for part in at]
            moved[i] += sign * step
            ends.append(function(*moved))
        # A step in μ is only small where it is small against σ.
        smooth = (at[1] > math.log(step) + 4.6) if i == 0 else torch.ones_like(at[1], dtype=bool)
        numeric = (ends[0] - ends[1]) / (2 * step)
        scale = function(*at).detach().abs() * 1e-4 + 1e-8
        error = (gradient - numeric).abs()
        assert (error <= 1e-4 * numeric.abs() + scale)[smooth].all()


@pytest.mark.parametrize("function", CLOSED)
def test_single_precision_gradients_equal_double(function):
    single = [part.requires_grad_() for part in grid(torch.float32)]
    double = [part.detach().double().requires_grad_() for part in single]
    for wrt, name in enumerate(("mu", "log_sigma")):
        got = torch.autograd.grad(function(*single).sum(), single)[wrt].double()
        want = torch.autograd.grad(function(*double).sum(), double)[wrt]
        # μ counts in σ: its gradient carries the rounding of value / σ.
        natural = function(*double).detach().abs()
        if name == "mu":
            natural = natural / double[1].detach().exp()
        assert ((got - want).abs() <= 1e-3 * want.abs() + 1e-5 * natural + 1e-7).all(), name


@pytest.mark.parametrize(("mu", "log_sigma"), [(-20.0, -5.0), (-30.0, 0.0), (-25.0, -20.0)])
def test_it_stays_finite_below_the_interval(mu, log_sigma):
    for dtype in DTYPES:
        at = [torch.tensor([x], dtype=dtype, requires_grad=True) for x in (mu, log_sigma)]
        values = [function(*at) for function in CLOSED]
        values.append(sample(*at, torch.rand(50, 1, dtype=dtype)).sum())
        for value in values:
            assert value.isfinite().all()
            assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), at))


def scipy_posterior(mu, log_sigma):
    sigma = math.exp(log_sigma)
    return scipy.stats.truncnorm((LOW - mu) / sigma, (HIGH - mu) / sigma, loc=mu, scale=sigma)


@pytest.mark.parametrize(("mu", "log_sigma"), POSTERIORS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 5e-5)])
def test_quantiles_equal_scipys(mu, log_sigma, dtype, tolerance):
    uniform = torch.linspace(0.001, 0.999, 101, dtype=dtype)
    at = [torch.tensor(x, dtype=dtype) for x in (mu, log_sigma)]
    got = sample(*at, uniform).double().log().numpy()
    want = scipy_posterior(mu, log_sigma).ppf(uniform.double().numpy())
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mu", [1e-3, 0.05, 0.5, 5.0, -20.05, -20.5])
@pytest.mark.parametrize("log_sigma", [-20.0, -7.0, -4.0, -3.0, -1.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_quantiles_beyond_an_end_equal_mpmaths(mu, log_sigma, dtype, tolerance):
    """Check the distance from the end itself, however small, and not only θ."""
    from bnnkit.bayes.truncated_normal import sample_log

    quantiles = (0.01, 0.3, 0.7, 0.99)
    # Moved so that the end is zero: a distance is then not rounded away against it.
    outside = mu if mu > 0 else LOW - mu
    low, high = (LOW, 0.0) if mu > 0 else (0.0, -LOW)
    at = [torch.tensor(x, dtype=dtype) for x in (outside if mu > 0 else -outside, log_sigma)]
    got = sample_log(*at, torch.tensor(quantiles, dtype=dtype), low, high).double().abs()
    with mp.workdps(60):
        sigma = mp.e ** mp.mpf(at[1].item())
        depth = abs(mp.mpf(at[0].item())) / sigma
        for u, distance in zip(quantiles, got.tolist(), strict=True):
            tail = mp.mpf(torch.tensor(u, dtype=dtype).item())
            tail = tail if mu > 0 else 1 - tail
            # The distance s (in σ) at which the mass beyond it is the right share.
            share = mp.ncdf(-(depth + distance / sigma)) / mp.ncdf(-depth)
            hazard = mp.npdf(depth) / mp.ncdf(-depth)
            error = abs(mp.log(share) - mp.log(tail)) / (hazard * distance / sigma)
            assert error < tolerance + (2e-7 / max(distance, 1e-30) if depth < 6 else 0), u


@pytest.mark.parametrize(("mu", "log_sigma"), [*POSTERIORS, (0.5, -3.0), (2.0, -4.0)])
def test_sample_gradients_equal_finite_differences(mu, log_sigma):
    uniform = torch.linspace(0.01, 0.99, 37, dtype=torch.float64)
    at = [torch.full_like(uniform, x).requires_grad_() for x in (mu, log_sigma)]
    step = 1e-5
    for i, gradient in enumerate(torch.autograd.grad(sample(*at, uniform).sum(), at)):
        ends = []
        for sign in (1, -1):
            moved = [part.detach().clone() for part in at]
            moved[i] += sign * step
            ends.append(sample(*moved, uniform))
        numeric = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-7)


def test_sample_gradients_agree_in_both_precisions():
    mu, log_sigma = (part.requires_grad_() for part in grid(torch.float32))
    double = [part.detach().double().requires_grad_() for part in (mu, log_sigma)]
    for u in (0.05, 0.5, 0.95):
        single_theta = sample(mu, log_sigma, torch.full_like(mu, u))
        double_theta = sample(*double, torch.full_like(mu, u).double())
        torch.testing.assert_close(single_theta.double(), double_theta, rtol=2e-4, atol=0)
        got = torch.autograd.grad(single_theta.sum(), (mu, log_sigma))
        want = torch.autograd.grad(double_theta.sum(), double)
        for one, two in zip(got, want, strict=True):
            torch.testing.assert_close(one.double(), two, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("mu", "log_sigma"), POSTERIORS)
def test_samples_match_the_moments_and_the_divergence(mu, log_sigma):
    n = 200_000
    at = [torch.tensor(x, dtype=torch.float64) for x in (mu, log_sigma)]
    theta = draw(*at, (n,), torch.Generator().manual_seed(7))
    error = variance(*at).sqrt() / math.sqrt(n)
    assert abs(theta.mean() - mean(*at)) < 4 * error
    second = theta.square()
    truth = variance(*at) + mean(*at) ** 2
    assert abs(second.mean() - truth) < 4 * second.std() / math.sqrt(n)
    log_ratio = torch.from_numpy(scipy_posterior(mu, log_sigma).logpdf(theta.log().numpy()))
    log_ratio = log_ratio + math.log(HIGH - LOW)
    error = log_ratio.std() / math.sqrt(n) + 1e-12
    assert abs(log_ratio.mean() - kl_to_log_uniform(*at)) < 4 * error


@pytest.mark.parametrize(("mu", "log_sigma"), POSTERIORS)
def test_the_density_of_samples_integrates_to_one(mu, log_sigma):
    """du / dx is the density of x; over the interval it adds up to the whole of u."""
    posterior = scipy_posterior(mu, log_sigma)
    uniform = torch.linspace(1e-9, 1 - 1e-9, 20_001, dtype=torch.float64)
    at = [torch.tensor(x, dtype=torch.float64) for x in (mu, log_sigma)]
    x = sample(*at, uniform).log()
    middle = 0.5 * (x[1:] + x[:-1])
    mass = torch.from_numpy(posterior.pdf(middle.numpy())) * x.diff()
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-3)


def test_a_generator_repeats_and_units_broadcast():
    mu, log_sigma = torch.zeros(3, 1, 1), torch.full((3, 1, 1), -1.0, requires_grad=True)
    first, again = (
        draw(mu, log_sigma, (4, 3, 2, 2), torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(first, again)
    first.sum().backward()
    assert log_sigma.grad.shape == (3, 1, 1)


def test_another_interval():
    at = [torch.tensor(x, dtype=torch.float64) for x in (-1.0, -0.5)]
    uniform = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    sigma = math.exp(-0.5)
    posterior = scipy.stats.truncnorm(-1 / sigma, 2 / sigma, loc=-1.0, scale=sigma)
    got = sample(*at, uniform, -2.0, 1.0).log().numpy()
    np.testing.assert_allclose(got, posterior.ppf(uniform.numpy()), rtol=1e-9)
    truth = posterior.expect(np.exp)
    assert mean(*at, -2.0, 1.0).item() == pytest.approx(truth, rel=1e-7)
    divergence = -posterior.entropy() + math.log(3.0)
    assert kl_to_log_uniform(*at, -2.0, 1.0).item() == pytest.approx(divergence, rel=1e-9)
