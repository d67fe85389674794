"""The acceptance rule on ties, infinities and numbers that are none."""

from __future__ import annotations

import math

import pytest
import torch

from bnnkit.bayes.accept import log_ratio, metropolis_accept

INF, NAN = math.inf, math.nan
ALMOST_ONE = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
"""The largest number that torch.rand can give."""

# (proposed, current): (log ratio, accepted at the least uniform above 0, at the largest)
CASES = {
    (0.0, 0.0): (0.0, True, True),
    (-3.5, -3.5): (0.0, True, True),
    (INF, INF): (0.0, True, True),
    (-INF, -INF): (0.0, True, True),
    (2.0, 1.0): (1.0, True, True),
    (1.0, 2.0): (-1.0, True, False),
    (0.0, -INF): (INF, True, True),
    (INF, 0.0): (INF, True, True),
    (INF, -INF): (INF, True, True),
    (-INF, 0.0): (-INF, False, False),
    (0.0, INF): (-INF, False, False),
    (-INF, INF): (-INF, False, False),
    (0.0, NAN): (INF, True, True),
    (INF, NAN): (INF, True, True),
    (NAN, 0.0): (NAN, False, False),
    (NAN, NAN): (NAN, False, False),
    (NAN, INF): (NAN, False, False),
    (NAN, -INF): (NAN, False, False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", CASES)
def test_every_kind_of_number(pair, dtype):
    expected, at_least, at_most = CASES[pair]
    proposed, current = (torch.tensor([v], dtype=dtype) for v in pair)
    ratio = log_ratio(proposed, current)
    assert ratio.dtype == dtype
    assert float(ratio) == pytest.approx(expected, nan_ok=True)
    least = torch.tensor([2.0**-24])
    assert bool(metropolis_accept(ratio, least)) is at_least
    assert bool(metropolis_accept(ratio, ALMOST_ONE[None])) is at_most


def test_a_uniform_of_zero_accepts_neither_nothing_nor_no_number():
    zero = torch.zeros(4)
    ratio = torch.tensor([-INF, NAN, -50.0, 0.0])
    assert metropolis_accept(ratio, zero).tolist() == [False, False, True, True]


def test_accepted_share_is_the_smaller_of_one_and_the_ratio():
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    for log_r in (-5.0, -1.0, -0.1, -1e-3, 0.0, 0.3):
        share = metropolis_accept(torch.full_like(uniform, log_r), uniform).double().mean()
        assert float(share) == pytest.approx(min(1.0, math.exp(log_r)), abs=2e-5)


def test_shapes_broadcast():
    ratio = log_ratio(torch.zeros(3, 1), torch.tensor([[0.0, 1.0]]))
    assert ratio.tolist() == [[0.0, -1.0]] * 3
