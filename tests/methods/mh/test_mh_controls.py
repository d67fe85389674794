"""Rejection, resampling and Langevin against formulas worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bnnkit.methods.mh.controls import importance_rows, langevin, rejection_rows


def drs_probability(scores):
    """Azadi et al. (2019), eqs. 7-8, with eps = 1e-6 and gamma the 95th percentile of F."""
    top = max(scores)
    f = [s - top - math.log(1 - math.exp(s - top - 1e-6)) for s in scores]
    gamma = np.percentile(f, 95)
    return np.array([1 / (1 + math.exp(-(v - gamma))) for v in f])


def test_rejection_keeps_with_the_papers_probability():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=60) * 1.5
    expected = drs_probability(scores)
    draw = torch.Generator().manual_seed(0)
    # many passes over the bank: each row is kept as a Bernoulli number of times
    passes = 5000
    count = int(passes * expected.sum())
    rows, rate = rejection_rows(torch.from_numpy(scores), count, draw)
    assert rows.shape == (count,)
    assert rate == pytest.approx(expected.mean(), rel=0.02)
    top = int(scores.argmax())
    kept = np.bincount(rows.numpy(), minlength=60)
    assert expected[top] == pytest.approx(1, abs=1e-4)
    kept = kept / kept[top]  # the best row is kept in every pass: it counts them
    error = np.sqrt(expected * (1 - expected) / passes)
    assert (np.abs(kept - expected) < 4.5 * error + 1e-4).all()


def test_rejection_never_keeps_what_has_no_score():
    scores = torch.tensor([0.0, math.nan, -math.inf, 1.0, 0.5] * 10)
    rows, rate = rejection_rows(scores, 500, torch.Generator().manual_seed(0))
    assert scores[rows].isfinite().all()
    assert 0 < rate < 0.6


def test_rejection_where_nearly_all_rows_are_worthless():
    """-inf rows have no say in the percentile, or they would be kept with probability 1/2."""
    scores = torch.full((1000,), -math.inf)
    scores[:10] = torch.linspace(-1, 1, 10)
    rows, _ = rejection_rows(scores, 200, torch.Generator().manual_seed(0))
    assert (rows < 10).all()


def test_rejection_of_many_best_rows_takes_the_papers_epsilon():
    """Two levels, a tenth of the bank at the upper: there F = -log(1 - exp(-1e-6)) = gamma."""
    scores = torch.cat([torch.zeros(900), torch.ones(100)])
    rows, rate = rejection_rows(scores, 50_000, torch.Generator().manual_seed(0))
    assert rate == pytest.approx(0.05, rel=0.05)  # the upper level is kept half of the time
    low = -1 - math.log(1 - math.exp(-1 - 1e-6)) + math.log(-math.expm1(-1e-6))
    expected = 2 * 50_000 * 9 / (1 + math.exp(-low))  # half a row of the lower level
    assert int((rows < 900).sum()) <= expected + 5


def test_rejection_ignores_a_constant():
    scores = torch.randn(200, generator=torch.Generator().manual_seed(1)).double()
    first, _ = rejection_rows(scores, 100, torch.Generator().manual_seed(0))
    second, _ = rejection_rows(scores + 500, 100, torch.Generator().manual_seed(0))
    assert torch.equal(first, second)


@pytest.mark.parametrize("shift", [0.0, 5000.0])
def test_resampling_frequencies_are_the_weights(shift):
    weights = np.array([0.05, 0.3, 0.15, 0.0, 0.4, 0.1])
    with np.errstate(divide="ignore"):
        scores = torch.from_numpy(np.log(weights) + shift)
    rows = importance_rows(scores, 50_000, torch.Generator().manual_seed(0))
    counts = np.bincount(rows.numpy(), minlength=6)
    assert counts[3] == 0
    some = weights > 0
    assert stats.chisquare(counts[some], 50_000 * weights[some]).pvalue > 0.003


def test_resampling_never_takes_what_has_no_score():
    scores = torch.tensor([math.nan, 0.0, math.nan])
    rows = importance_rows(scores, 1000, torch.Generator().manual_seed(0))
    assert (rows == 1).all()


def test_langevin_reaches_a_gaussian_target():
    """Prior N(0, I) tilted by s(z) = a.z is N(a, I); the scheme's own stationary law is known:
    z' = z + eps/2 (a - z) + sqrt(eps) n has mean a and variance 1 / (1 - eps/4)."""
    a, eps, n = torch.tensor([1.5, -0.5]), 0.2, 20_000
    draw = torch.Generator().manual_seed(0)
    z = langevin(
        torch.randn(n, 2, generator=draw), lambda v: v @ a,
        lambda v: -0.5 * v.square().sum(1), 120, eps, draw,
    )  # fmt: skip
    variance = 1 / (1 - eps / 4)
    error = math.sqrt(variance / n)
    assert z.mean(0).tolist() == pytest.approx(a.tolist(), abs=5 * error)
    assert z.var(0).tolist() == pytest.approx([variance] * 2, rel=5 * math.sqrt(2 / n))


def test_langevin_of_a_score_that_sharpens():
    """s(z) = -|z - m|^2 / 2 on the prior N(0, I) gives N(m / 2, I / 2)."""
    n, eps, draw = 20_000, 0.05, torch.Generator().manual_seed(0)
    z = langevin(
        torch.zeros(n, 1), lambda v: -0.5 * (v - 2).square().sum(1),
        lambda v: -0.5 * v.square().sum(1), 200, eps, draw,
    )  # fmt: skip
    assert float(z.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(z.var()) == pytest.approx(0.5 / (1 - eps / 2), rel=0.05)


def test_langevin_one_step_by_hand():
    z = torch.tensor([[1.0], [2.0]])
    noise = torch.randn(2, 1, generator=torch.Generator().manual_seed(7))
    found = langevin(
        z, lambda v: 3 * v[:, 0], lambda v: -0.5 * v[:, 0].square(), 1, 0.04,
        torch.Generator().manual_seed(7),
    )  # fmt: skip
    torch.testing.assert_close(found, z + 0.02 * (3 - z) + 0.2 * noise)
    assert not found.requires_grad


def test_langevin_stays_where_it_was_when_a_walk_is_lost():
    z = torch.tensor([[1.0, 1.0], [2.0, 2.0]])

    def score(v):
        return v[:, 0] * torch.tensor([1.0, math.nan])  # no slope for the second

    found = langevin(
        z, score, lambda v: -0.5 * v.square().sum(1), 3, 0.01, torch.Generator().manual_seed(0)
    )
    assert found.isfinite().all()
    assert torch.equal(found[1], z[1])
    assert not torch.equal(found[0], z[0])


def test_langevin_walks_even_without_gradients_around_it():
    with torch.no_grad():
        found = langevin(
            torch.zeros(3, 2, 2), lambda v: v.flatten(1).sum(1), lambda v: v.new_zeros(len(v)), 2,
            0.1, torch.Generator().manual_seed(0),
        )  # fmt: skip
    assert found.shape == (3, 2, 2)
    assert found.isfinite().all()
