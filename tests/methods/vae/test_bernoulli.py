"""Bernoulli posteriors, and a belief net in the place of any autoencoder, against all states."""

import math

import pytest
import torch

from bnnkit.methods.vae.belief import BeliefModel, log_bernoulli
from bnnkit.methods.vae.bernoulli import Bernoulli
from bnnkit.methods.vae.importance import elbo, importance
from bnnkit.methods.vae.latent_model import of_belief
from bnnkit.methods.vae.latents import latent_usage, split_divergence

LATENT, PIXELS, DATA = 7, 10, 6


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=source(seed), dtype=torch.double)


@pytest.fixture(scope="module")
def belief():
    w, b, c, r = (
        normal(*shape, seed=i)
        for i, shape in enumerate(
            ((LATENT, PIXELS), (PIXELS,), (LATENT,), (PIXELS, LATENT)), start=10
        )
    )
    return BeliefModel(lambda x: 0.4 * x @ r, lambda h: 0.8 * h @ w + b, lambda: c)


@pytest.fixture(scope="module")
def model(belief):
    return of_belief(belief, LATENT)


@pytest.fixture(scope="module")
def x():
    return (torch.rand(DATA, PIXELS, generator=source(1)) < 0.4).double()


@pytest.fixture(scope="module")
def q(model, x):
    return model.amortised(x)


@pytest.fixture(scope="module")
def states():
    bits = (torch.arange(2**LATENT)[:, None] >> torch.arange(LATENT)) & 1
    return bits.double()[:, None].expand(-1, DATA, -1)


def test_it_is_a_distribution_over_all_states(q, states):
    torch.testing.assert_close(q.log_prob(states).logsumexp(0), torch.zeros(DATA).double())


def test_draws_have_its_moments_and_its_log_probabilities(q):
    h, log_q = q.sample(normal(200_000, DATA, LATENT))
    assert set(h.unique().tolist()) == {0, 1}
    mean, deviation = q.marginals()
    torch.testing.assert_close(h.mean(0), mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(h.std(0), deviation, atol=1e-2, rtol=0)
    torch.testing.assert_close(log_q, q.log_prob(h))
    torch.testing.assert_close(q.centre(), mean)


def test_its_divergence_is_the_sum_over_all_states(q, belief, states):
    log_q = q.log_prob(states)
    prior = log_bernoulli(states, belief.prior_logits())
    expected = (log_q.exp() * (log_q - prior)).sum(0)
    torch.testing.assert_close(q.kl(), expected)
    torch.testing.assert_close(q.kl_of_latents().sum(1), expected)


def test_parts_of_the_data_keep_the_prior(q):
    other = q.replace([-q.logits])
    mask = torch.arange(DATA) < 2
    mixed = q.where(mask, other)
    joined = q.rows(slice(0, 2)).join([other.rows(slice(2, None))])
    for found in (mixed, joined):
        assert torch.equal(found.logits, torch.where(mask[:, None], q.logits, -q.logits))
        assert torch.equal(found.prior, q.prior)
    assert list(q.state()) == ["logits"]
    assert len(q) == DATA


def test_the_bound_is_that_of_all_states(model, q, x, states):
    log_q = q.log_prob(states)
    joint = model.log_joint(x, states)
    exact = (log_q.exp() * (joint - log_q)).sum(0)
    found = elbo(model, x, q, 4000, generator=source())
    assert model.knows_kl(q)
    torch.testing.assert_close(found.kl, q.kl())
    assert ((found.bound - exact).abs() < 5 * found.se).all()
    assert (exact < joint.logsumexp(0)).all()


def test_importance_sampling_meets_the_evidence(model, q, x, states):
    exact = model.log_joint(x, states).logsumexp(0)
    found = importance(model, x, q, 20_000, generator=source())
    assert ((found.log_p[0] - exact).abs() < 5 * found.se[0]).all()
    posterior = model.log_joint(x, states).softmax(0)
    # in the limit the share of effective samples is 1 / E_q[(p/q)^2]
    share = 1 / (posterior.square() / q.log_prob(states).exp()).sum(0)
    many = share > 0.01  # of fewer the estimate itself is noise
    assert int(many.sum()) >= 3
    torch.testing.assert_close(found.ess[many] / 20_000, share[many], rtol=0.2, atol=0)


def test_what_the_divergence_is_spent_on(model, q, x, states):
    usage = latent_usage(q)
    torch.testing.assert_close(usage.kl, q.kl_of_latents().mean(0))
    torch.testing.assert_close(usage.activity, torch.sigmoid(q.logits).var(0))
    noise = normal(3000, DATA, LATENT, seed=2)
    split = split_divergence(q, noise, model.log_prior(q.sample(noise)[0]))
    log_q = q.log_prob(states)
    aggregate = log_q.logsumexp(1) - math.log(DATA)
    exact = (log_q.exp() * (log_q - aggregate[:, None])).sum(0).mean()
    assert split.mutual_information == pytest.approx(float(exact), abs=0.02)
    assert split.total == pytest.approx(float(q.kl().mean()), abs=0.05)


def test_a_prior_is_no_parameter():
    q = Bernoulli(torch.zeros(2, 3), torch.ones(3))
    leaves = q.leaves()
    assert leaves.logits.requires_grad
    assert not leaves.prior.requires_grad
