"""ESS and R-hat against arviz-stats, and what they say where chains do not move."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats

from bnnkit.bayes.chain_diagnostics import bulk_ess, mean_ess, rhat


def autoregressive(chains, draws, phi, seed=0):
    rng = np.random.default_rng(seed)
    x = np.zeros((chains, draws))
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + rng.normal(size=chains)
    return x


RNG = np.random.default_rng(0)
CASES = {
    "independent": RNG.normal(size=(4, 100)),
    "slow": autoregressive(4, 1000, 0.9),
    "antithetic": autoregressive(3, 501, -0.8),
    "antithetic, short": autoregressive(2, 40, -0.95),
    "very short": RNG.normal(size=(2, 7)),
    "short": RNG.normal(size=(2, 12)),
    "ties": np.round(autoregressive(4, 200, 0.5)),
    "apart": RNG.normal(size=(4, 300)) + np.arange(4)[:, None],
    "no variance": RNG.standard_cauchy(size=(4, 333)),
    "other scales": RNG.normal(size=(4, 300)) * np.array([[1], [1], [1], [9]]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("ours", "kind"), [(bulk_ess, "bulk"), (mean_ess, "mean"), (rhat, "rank")]
)
def test_as_arviz(name, ours, kind):
    x = CASES[name]
    theirs = array_stats.rhat if kind == "rank" else array_stats.ess
    expected = theirs(x, method=kind, chain_axis=0, draw_axis=1)
    both = torch.from_numpy(np.stack([x, 3 - 2 * x], axis=2))
    found = ours(both)
    assert found.shape == (2,)
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-6)


def test_one_chain_has_an_ess_and_no_rhat():
    x = torch.from_numpy(autoregressive(1, 300, 0.5))[:, :, None]
    expected = array_stats.ess(x[:, :, 0].numpy(), method="bulk", chain_axis=0, draw_axis=1)
    assert float(bulk_ess(x)) == pytest.approx(float(expected), rel=1e-6)
    assert math.isnan(float(rhat(x)))


def test_chains_that_never_move():
    still = torch.arange(4.0)[:, None, None].expand(4, 50, 1)
    assert float(rhat(still)) == math.inf
    assert float(bulk_ess(still)) < 20
    same = torch.ones(4, 50, 1)
    assert math.isnan(float(rhat(same)))
    assert math.isnan(float(bulk_ess(same)))


def test_one_stuck_chain_among_many_is_seen():
    x = torch.randn(64, 500, 1, generator=torch.Generator().manual_seed(0))
    assert float(rhat(x)) < 1.005
    x[0] = 6.0
    assert float(rhat(x)) > 1.01


def test_values_that_are_no_numbers():
    x = torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(0))
    x[1, 3, 1] = math.nan
    assert bulk_ess(x).isnan().tolist() == [False, True]
    assert bulk_ess(x[:, :3]).isnan().all()


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="chains, draws"):
        bulk_ess(torch.zeros(4, 50))
