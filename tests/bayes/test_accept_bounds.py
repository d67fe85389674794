"""The bound on total variation against distances that are computed by enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from bnnkit.bayes.accept.bounds import tv_bound


def problem(seed, k=5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k) * 3), rng.dirichlet(np.ones(k) * 3), rng


def parts(p, q, log_d):
    """Return E[a + exp a] of y ~ p, x ~ q, and KL(p(y) q(x) || p(x) q(y)), by enumeration."""
    joint = p[:, None] * q[None, :]
    a = log_d[None, :] - log_d[:, None]
    loss = float((joint * (a + np.exp(a))).sum())
    return loss, float((joint * np.log(joint / joint.T)).sum())


def stationary(q, log_d):
    t = q * np.exp(log_d)  # of independent Metropolis-Hastings with the weights d
    return t / t.sum()


@pytest.mark.parametrize("seed", range(20))
def test_no_chain_is_farther_than_the_bound(seed):
    p, q, rng = problem(seed)
    for floor in (0.05, 0.3, 0.7):
        log_d = np.log(floor + (1 - floor) * rng.random(5))
        epsilon = float((q / p).min())
        found = tv_bound(*parts(p, q, log_d), floor, epsilon)
        distance = 0.5 * np.abs(stationary(q, log_d) - p).sum()
        assert distance**2 <= found.bound
        assert found.vacuous == (found.bound > 1)


def test_exact_ratio_has_no_gap_and_any_other_has():
    p, q, rng = problem(0)
    exact = np.log(p / q)
    assert tv_bound(*parts(p, q, exact), 0.01).gap == pytest.approx(0, abs=1e-12)
    assert 0.5 * np.abs(stationary(q, exact) - p).sum() == pytest.approx(0, abs=1e-12)
    for _ in range(20):
        assert tv_bound(*parts(p, q, exact + rng.normal(size=5)), 0.01).gap > 0


def test_numbers_of_one_case():
    found = tv_bound(loss=1.2, divergence=0.3, floor=0.5, epsilon=0.5)
    assert found.prefactor == pytest.approx((4 + 1) / (3 * 0.25 * 0.125))
    assert found.gap == pytest.approx(0.5)
    assert found.bound == pytest.approx(found.prefactor * 0.5)
    assert found.vacuous
    assert not tv_bound(1.0, 0.001, 0.9).vacuous


def test_an_estimate_below_zero_is_a_gap_of_zero():
    found = tv_bound(loss=0.9, divergence=0.05, floor=0.1)
    assert (found.gap, found.bound, found.vacuous) == (0.0, 0.0, False)
