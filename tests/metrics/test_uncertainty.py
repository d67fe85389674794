"""Entropy and mutual information against scipy and their laws."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from bnnkit.metrics import entropy_each, mutual_information_each


def members(k, n, classes, scale, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(k, n, classes, generator=g).double()).log_softmax(2)


def mean_of(log_probs):
    return log_probs.logsumexp(0) - math.log(len(log_probs))


def test_entropy_against_scipy():
    log_probs = members(1, 200, 7, 3.0)[0]
    expected = stats.entropy(log_probs.exp().numpy(), axis=1)
    assert entropy_each(log_probs).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_entropy_has_its_range():
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    even = torch.full((1, 3), 1 / 3).log()
    found = entropy_each(torch.cat([certain, even]))
    assert found.dtype == torch.float64
    assert found[0] == 0
    assert found[1] == pytest.approx(math.log(3), rel=1e-6)
    assert entropy_each(torch.tensor([[4e-16, -800.0]])) >= 0


def test_what_is_not_a_number_stays_so():
    assert entropy_each(torch.tensor([[torch.nan, 0.0]])).isnan()


def test_mutual_information_is_the_mean_divergence_from_the_mean():
    each = members(8, 50, 5, 2.0)
    mean = mean_of(each)
    expected = (each.exp() * (each - mean)).sum(2).mean(0)
    found = mutual_information_each(mean, torch.stack([entropy_each(m) for m in each]).mean(0))
    assert torch.allclose(found, expected, atol=1e-12)


def test_members_that_agree_carry_no_information():
    each = members(1, 500, 10, 4.0).expand(7, -1, -1)
    mean = mean_of(each)
    entropy = torch.stack([entropy_each(m) for m in each]).mean(0)
    assert (entropy_each(mean) < entropy).any(), "rounding is what the clamp is for"
    found = mutual_information_each(mean, entropy)
    assert found.min() == 0
    assert found.max() < 1e-13
