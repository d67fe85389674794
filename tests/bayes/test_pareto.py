"""The shape of a tail: of known samples, and where there is none to be seen."""

import math

import pytest
import torch

from bnnkit.bayes.pareto import pareto_shape


def uniform(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_the_shape_of_a_pareto_sample(k):
    weight = (uniform(20_000).pow(-k) - 1) / k  # generalised Pareto of shape k
    assert pareto_shape(weight.log()) == pytest.approx(k, abs=0.12)


def test_ties_show_no_tail():
    """Discrete variables repeat their weights: a quarter of the tail may be one value."""
    log_weight = torch.cat([torch.zeros(900), torch.full((10,), 0.5)])
    assert math.isnan(pareto_shape(log_weight))
    assert pareto_shape(torch.zeros(900)) == -math.inf
    assert pareto_shape(torch.cat([torch.zeros(1), torch.full((900,), -math.inf)])) == math.inf
