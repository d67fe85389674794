"""Bounds and importance sampling, against the known evidence of a linear-Gaussian model."""

import math

import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal, FullRank
from bnnkit.methods.vae.importance import elbo, importance, log_weights
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.natural import _inverse_factor


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def world(linear_gaussian):
    return linear_gaussian(n=6, dtype=torch.float32, log_sigma=0.3)


def wide(world):
    sigma = world.precision.diagonal().rsqrt() * 1.3
    return Diagonal(world.mean, sigma.log().expand(len(world.x), -1).clone())


def test_one_importance_sample_is_the_elbo(world):
    q = wide(world)
    model = world.model
    free = LatentModel(model.encode, model.decode, "gaussian", 4, standard_prior=False)
    bound = elbo(free, world.x, q, 1, generator=generator())
    one = importance(free, world.x, q, 1, generator=generator())
    torch.testing.assert_close(one.log_p[0], bound.bound)


def test_the_curve_is_of_the_first_draws(world):
    q = wide(world)
    found = importance(world.model, world.x, q, [5, 50, 500], generator=generator())
    w = log_weights(world.model, world.x, q, 500, generator())
    assert found.samples == (5, 50, 500)
    for row, count in enumerate(found.samples):
        direct = w[:count].exp().mean(0).log()
        torch.testing.assert_close(found.log_p[row], direct)
        relative = w[:count].exp().std(0, correction=0) / w[:count].exp().mean(0)
        torch.testing.assert_close(found.se[row], relative / math.sqrt(count))
    weights = w.softmax(0)
    torch.testing.assert_close(found.ess, 1 / weights.square().sum(0))


def test_it_finds_the_evidence(world):
    found = importance(world.model, world.x, wide(world), 20_000, generator=generator())
    error = (found.log_p[0] - world.evidence()) / found.se[0]
    assert error.abs().max() < 4
    assert abs(found.mean[0] - world.evidence().mean()) < 4 * found.mean_se[0]
    assert (found.k_hat < 0.7).all()


def test_the_true_posterior_has_equal_weights(world):
    factor = _inverse_factor(world.precision.expand(len(world.x), -1, -1))
    q = FullRank.from_factor(world.mean, factor)
    found = importance(world.model, world.x, q, 200, generator=generator())
    assert found.log_p[0] == pytest.approx(world.evidence().double(), abs=1e-4)
    assert (found.ess > 199.9).all()


def test_elbo_has_both_forms_of_the_divergence(world):
    q = wide(world)
    parts = elbo(world.model, world.x, q, 4000, generator=generator(), batch_size=4)
    torch.testing.assert_close(parts.kl, q.kl().double())
    assert parts.kl_draws == pytest.approx(parts.kl, abs=0.15)
    torch.testing.assert_close(parts.bound, parts.log_likelihood - parts.kl)
    # the bound of a Gaussian posterior with the right mean, in closed form
    variance, diagonal = (2 * q.log_sigma[0]).exp(), world.precision.diagonal()
    loss = 0.5 * ((diagonal * variance).sum() - 4 - variance.log().sum())
    expected = world.evidence() - loss + 0.5 * torch.logdet(world.precision)
    assert ((parts.bound - expected).abs() < 4 * parts.se).all()


def test_weights_of_zero_are_no_trouble(world):
    def log_prior(z):
        inside = -0.5 * (z.square().sum(-1) + 4 * math.log(2 * math.pi))
        return torch.where(z[..., 0] > 1e3, torch.full_like(inside, float("nan")), inside)

    model = LatentModel(
        world.model.encode, world.model.decode, "gaussian", 4, log_prior, standard_prior=False
    )
    q = Diagonal(torch.full((6, 4), 2e3), torch.zeros(6, 4))
    found = importance(model, world.x, q, 30, generator=generator())
    assert (found.log_p == -math.inf).all()
