"""Intervals against scipy, and by how often they hold the truth."""

from __future__ import annotations

import math
import time

import pytest
import torch
from scipy import stats

from bnnkit.metrics import (
    binned_gap,
    bootstrap_interval,
    mean_interval,
    sum_interval,
    wilson_interval,
)


@pytest.mark.parametrize(("wrong", "n"), [(0, 10), (3, 20), (81, 10000), (7, 7)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_against_scipy(wrong, n, level):
    expected = stats.binomtest(wrong, n).proportion_ci(level, method="wilson")
    found = wilson_interval(wrong / n, n, level=level)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found[0] <= wrong / n <= found[1]


@pytest.mark.parametrize("n", [2, 5, 200])
def test_mean_against_scipy(n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    v = x.double().numpy()
    expected = stats.t.interval(0.95, n - 1, v.mean(), stats.sem(v))
    assert mean_interval(x) == pytest.approx(expected, rel=1e-9)


def test_one_value_says_nothing():
    assert mean_interval(torch.ones(1)) == (-math.inf, math.inf)


def test_bootstrap_of_a_mean_agrees_with_student():
    x = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    g = torch.Generator().manual_seed(1)
    found = bootstrap_interval(lambda r: x[r].mean(1), 400, generator=g, resamples=2000)
    assert found == pytest.approx(mean_interval(x), abs=0.012)


def test_bootstrap_is_seeded():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    a, b = (
        bootstrap_interval(lambda r: x[r].mean(1), 50, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert a == b


def test_bootstrap_of_a_calibration_error_is_quick_and_holds_the_estimate():
    g = torch.Generator().manual_seed(0)
    confidence = torch.rand(10_000, generator=g).double() * 0.9 + 0.1
    right = (torch.rand(10_000, generator=g) < confidence).double()
    gap = confidence - right
    estimate = float(binned_gap(confidence, gap, torch.arange(10_000)[None])[0])
    start = time.process_time()
    low, high = bootstrap_interval(
        lambda r: binned_gap(confidence, gap, r), 10_000, generator=g, resamples=200
    )
    assert time.process_time() - start < 1
    assert low < estimate < high


def test_a_sum_of_normal_estimates_has_the_interval_of_their_sum():
    z, deviations, values = stats.norm.ppf(0.975), (0.3, 1.2, 0.05), (2.0, -1.0, 0.5)
    parts = [(v, v - z * s, v + z * s) for v, s in zip(values, deviations, strict=True)]
    half = z * math.sqrt(sum(s * s for s in deviations))
    assert sum_interval(*parts) == pytest.approx((1.5 - half, 1.5 + half))


def test_one_estimate_and_a_certain_one_change_nothing():
    assert sum_interval((1.0, 0.5, 3.0)) == (0.5, 3.0)
    assert sum_interval((1.0, 0.5, 3.0), (2.0, 2.0, 2.0)) == (2.5, 5.0)
