"""Fit diagnostics against scipy, published tables and the full correlation matrix."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from bnnkit.bayes import normality
from bnnkit.bayes.normality import (
    ks_distance,
    layer_correlation,
    lilliefors_null,
    rejected_share,
)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ks_distance_against_scipy():
    g = source()
    draws = torch.randn(60, 12, generator=g).double()
    draws[:, 6:] = draws[:, 6:].exp()
    draws[:, 9:] = draws[:, 9:].round()  # ties
    draws = draws * 3 - 40
    expected = [
        stats.kstest(c.numpy(), "norm", args=(float(c.mean()), float(c.std()))).statistic
        for c in draws.T
    ]
    assert ks_distance(draws).tolist() == pytest.approx(expected, abs=1e-12)


def test_ks_distance_does_not_depend_on_the_scale_or_the_block(monkeypatch):
    draws = torch.randn(50, 9, generator=source()).double()
    whole = ks_distance(draws)
    assert torch.allclose(ks_distance(draws * 1e-3 + 7), whole, atol=1e-9)
    monkeypatch.setattr(normality, "_CELLS", 100)
    assert ks_distance(draws).equal(whole)


def test_a_constant_column_has_no_distance():
    draws = torch.randn(31, 3, generator=source())
    draws[:, 1] = 0.1
    assert ks_distance(draws).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(("n", "critical"), [(30, 0.161), (300, 0.886 / math.sqrt(300))])
def test_null_against_published_critical_values(n, critical):
    # Lilliefors (1967) simulated them with 1,000 samples: good to about 2 %
    null = lilliefors_null(n, generator=source(), simulations=4000)
    assert null.diff().min() >= 0
    assert float(null.quantile(0.95)) == pytest.approx(critical, rel=0.03)


def test_null_is_made_of_distances_and_repeats():
    null = lilliefors_null(40, generator=source(3), simulations=50)
    draws = torch.randn(40, 50, generator=source(3), dtype=torch.float64)
    assert null.equal(ks_distance(draws).sort().values)


def test_the_test_has_its_level_and_its_power():
    null = lilliefors_null(100, generator=source())
    gaussian = 5 + 2 * torch.randn(100, 3000, generator=source(1))
    assert rejected_share(ks_distance(gaussian), null) == pytest.approx(0.05, abs=0.015)
    assert rejected_share(ks_distance(gaussian), null, level=0.2) == pytest.approx(0.2, abs=0.03)
    assert (
        rejected_share(ks_distance(torch.randn(100, 500, generator=source(2)).exp()), null) > 0.99
    )


def test_rejected_share_by_hand():
    null = torch.arange(1, 20).double()  # 19 of them: the largest has p = 2/20, beyond it 1/20
    found = torch.tensor([19.0, 19.5, 0.5, torch.nan])
    assert rejected_share(found, null) == pytest.approx(1 / 3)
    assert rejected_share(found, null, level=0.1) == pytest.approx(2 / 3)
    assert math.isnan(rejected_share(found[3:], null))


def by_matrix(draws, sizes):
    """Return the same from the whole matrix of correlations, by loops."""
    n = len(draws)
    squares = draws.double().T.corrcoef().square()
    ends = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    found = torch.empty(len(sizes), len(sizes)).double()
    for i in range(len(sizes)):
        for j in range(len(sizes)):
            block = squares[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
            if i == j:
                block = block[~torch.eye(len(block), dtype=torch.bool)]
            mean = float(block.mean())
            found[i, j] = max(0.0, (mean - 1 / (n - 1)) / (1 - 1 / (n - 1))) ** 0.5
    return found


def mixed(n, sizes, seed=0):
    g = source(seed)
    draws = torch.randn(n, sum(sizes), generator=g).double()
    common = torch.randn(n, 1, generator=g).double()
    draws[:, sizes[0] :] += 0.8 * common
    return draws * 1e-2 + 3


@pytest.mark.parametrize("cells", [1 << 22, 300])
def test_layer_correlation_against_the_whole_matrix(cells, monkeypatch):
    monkeypatch.setattr(normality, "_CELLS", cells)
    sizes = [5, 12, 7]
    draws = mixed(40, sizes)
    found = layer_correlation(draws, sizes)
    assert torch.allclose(found, by_matrix(draws, sizes), atol=1e-10)
    assert found.equal(found.T)


def test_independent_layers_come_out_near_zero_and_copies_at_one():
    draws = torch.randn(60, 1200, generator=source())
    found = layer_correlation(draws, [400, 800])
    # without the floor taken off they would read 1 / sqrt(59) = .13
    assert found.max() < 0.02
    same = draws[:, :1].expand(-1, 6)
    assert layer_correlation(same, [2, 4]).tolist() == [pytest.approx([1, 1], abs=1e-9)] * 2


def test_the_estimate_is_that_of_the_population():
    # each pair of the second layer shares .8^2 / 1.64 of its variance
    found = layer_correlation(mixed(4000, [3, 40]), [3, 40])
    assert float(found[1, 1]) == pytest.approx(0.64 / 1.64, abs=0.02)
    assert found[0, 1] < 0.03


def test_the_floor_is_unbiased_at_few_draws():
    squares = [
        float(layer_correlation(mixed(30, [3, 6], seed), [3, 6])[1, 1]) ** 2 for seed in range(300)
    ]
    assert sum(squares) / 300 == pytest.approx((0.64 / 1.64) ** 2, abs=0.02)


def test_constant_statistics_and_single_ones_are_left_out():
    draws = mixed(40, [4, 4])
    draws[:, 2] = 0.1
    kept = torch.cat([draws[:, :2], draws[:, 3:]], dim=1)
    assert torch.allclose(layer_correlation(draws, [4, 4]), layer_correlation(kept, [3, 4]))
    single = layer_correlation(draws, [1, 7])
    assert single.isnan().tolist() == [[True, False], [False, False]]
