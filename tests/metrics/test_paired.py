"""The paired difference: its formula, its edges, and its coverage."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from bnnkit.errors import DataError
from bnnkit.metrics import paired_difference


def test_real_values_against_scipy():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(300, generator=g).double()
    b = a + 0.1 + 0.3 * torch.randn(300, generator=g).double()
    found = paired_difference(a, b)
    expected = stats.ttest_rel(b.numpy(), a.numpy())
    ends = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((ends.low, ends.high), rel=1e-9)
    assert found["value"] / found["se"] == pytest.approx(expected.statistic)
    assert found["n"] == 300


def test_bonett_price_by_hand():
    # 100 pairs, 8 newly wrong and 2 newly right: p = 9/102, q = 3/102
    a, b = torch.zeros(100), torch.zeros(100)
    b[:8], a[8:10] = 1, 1
    found = paired_difference(a, b)
    se = math.sqrt((12 / 102 - (6 / 102) ** 2) / 102)
    assert found["value"] == pytest.approx(0.06)
    assert found["low"] == pytest.approx(6 / 102 - 1.959964 * se, abs=1e-6)
    assert found["high"] == pytest.approx(6 / 102 + 1.959964 * se, abs=1e-6)


def test_agreement_everywhere_still_has_a_width():
    wrong = torch.zeros(50)
    found = paired_difference(wrong, wrong)
    assert found["value"] == 0
    assert found["low"] < 0 < found["high"]
    assert found["high"] > paired_difference(torch.zeros(5000), torch.zeros(5000))["high"]


@pytest.mark.parametrize("n", [1, 3])
def test_the_interval_stays_in_range_and_holds_the_value(n):
    found = paired_difference(torch.zeros(n), torch.ones(n), level=0.5)
    assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_coverage_on_rare_disagreement():
    g = torch.Generator().manual_seed(0)
    p_up, p_down, n = 0.03, 0.01, 100
    hits = 0
    for _ in range(1500):
        u = torch.rand(n, generator=g)
        b = (u < p_up).double()
        a = ((u >= p_up) & (u < p_up + p_down)).double()
        d = paired_difference(a, b)
        hits += d["low"] <= p_up - p_down <= d["high"]
    assert hits / 1500 > 0.93


@pytest.mark.parametrize(("n", "m"), [(3, 4), (0, 0)])
def test_refuses_what_is_no_pair(n, m):
    with pytest.raises(DataError, match=rf"\[{n}\] and \[{m}\]"):
        paired_difference(torch.zeros(n), torch.zeros(m))
