"""Use of latents and the split of the divergence, against integrals and closed forms."""

import math

import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal, FullRank
from bnnkit.methods.vae.latents import latent_usage, split_divergence


def test_active_latents_are_those_whose_means_vary():
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(500, 3, generator=g) * torch.tensor([1.0, 0.05, 0.0])
    q = Diagonal(mean, torch.tensor([-1.0, 0.0, 0.0]).expand(500, 3))
    usage = latent_usage(q)
    assert usage.active.tolist() == [True, False, False]
    assert usage.activity == pytest.approx(mean.double().var(0))
    assert float(usage.kl.sum()) == pytest.approx(float(q.kl().mean()), rel=1e-5)


def test_apart_posteriors_tell_which_datum_it_was():
    mean = 50.0 * torch.arange(8.0).unsqueeze(1)
    q = Diagonal(mean, torch.full((8, 1), -1.0))
    noise = torch.randn(200, 8, 1, generator=torch.Generator().manual_seed(0))
    split = split_divergence(q, noise)
    assert split.mutual_information == pytest.approx(math.log(8), abs=1e-4)
    assert split.total == pytest.approx(float(q.kl().mean()), rel=1e-2)


def test_equal_posteriors_tell_nothing():
    q = FullRank.amortised(torch.ones(9, 2), torch.full((9, 2), -0.5))
    noise = torch.randn(500, 9, 2, generator=torch.Generator().manual_seed(0))
    split = split_divergence(q, noise)
    assert split.mutual_information == pytest.approx(0, abs=1e-5)
    assert split.marginal_kl == pytest.approx(float(q.kl()[0]), rel=0.05)


def test_the_aggregate_is_the_mixture():
    mean = torch.tensor([[-1.0], [0.3], [2.0]])
    sigma = torch.tensor([[0.5], [0.8], [0.3]])
    q = Diagonal(mean, sigma.log())
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    parts = torch.distributions.Normal(mean.double(), sigma.double()).log_prob(grid)
    mixture = parts.logsumexp(0) - math.log(3)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    expected = float(torch.trapezoid(mixture.exp() * (mixture - prior), grid))
    noise = torch.randn(20_000, 3, 1, generator=torch.Generator().manual_seed(0))
    split = split_divergence(q, noise)
    assert split.marginal_kl == pytest.approx(expected, abs=0.02)
    assert split.total == pytest.approx(float(q.kl().mean()), abs=0.02)
