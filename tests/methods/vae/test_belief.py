"""Binary latents: the bound, the weights and the likelihood against all 2^L states."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from bnnkit.methods.vae.belief import (
    BeliefModel,
    belief_model,
    bernoulli_kl,
    bound,
    draw,
    importance_log_likelihood,
    log_bernoulli,
    log_weights,
    straight_through,
)
from bnnkit.zoo.belief_net import SigmoidBeliefNet

LATENT, PIXELS, DATA = 6, 9, 5


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=source(seed), dtype=torch.double)


@pytest.fixture(scope="module")
def model():
    draws = source(3)
    w, b, c, r = (
        torch.randn(shape, generator=draws, dtype=torch.double)
        for shape in ((LATENT, PIXELS), (PIXELS,), (LATENT,), (PIXELS, LATENT))
    )
    return BeliefModel(lambda x: x @ r, lambda h: 2 * h @ w + b, lambda: c)


@pytest.fixture(scope="module")
def x():
    return (uniform(DATA, PIXELS, seed=1) < 0.4).double()


@pytest.fixture(scope="module")
def states():
    bits = torch.arange(2**LATENT)[:, None] >> torch.arange(LATENT)
    return (bits & 1).double()[:, None].expand(-1, DATA, -1)


def test_log_bernoulli_is_torchs():
    logits, value = 4 * uniform(3, 7, 5) - 2, uniform(3, 7, 5, seed=1).round()
    expected = Bernoulli(logits=logits).log_prob(value).sum(-1)
    torch.testing.assert_close(log_bernoulli(value, logits), expected)
    wide = log_bernoulli(value, logits[0])  # samples of one posterior
    expected = Bernoulli(logits=logits[0]).log_prob(value).sum(-1)
    torch.testing.assert_close(wide, expected)


def test_divergence_is_torchs_and_finite_at_the_edge():
    a, b = 6 * uniform(4, 5) - 3, 6 * uniform(4, 5, seed=1) - 3
    expected = kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)).sum(-1)
    torch.testing.assert_close(bernoulli_kl(a, b), expected)
    sure = torch.full((1, 5), 100.0, dtype=torch.double)
    torch.testing.assert_close(
        bernoulli_kl(sure, 0 * b[:1]), torch.full((1,), 5 * math.log(2)).double()
    )


def test_samples_have_the_right_means():
    logits = 4 * uniform(3, LATENT) - 2
    h = draw(logits, 40_000, source())
    assert set(h.unique().tolist()) == {0.0, 1.0}
    assert (h.mean(0) - logits.sigmoid()).abs().max() < 0.012  # 4.8 standard errors


def test_joint_sums_to_the_likelihood_of_all_images(model):
    """p is normalised: over all images of a small net, the enumerated p(x) sums to one."""
    small = BeliefModel(lambda x: x, lambda h: 3 * h[:, :4] - h[:, 2:], model.prior_logits)
    images = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).double()
    bits = ((torch.arange(2**LATENT)[:, None] >> torch.arange(LATENT)) & 1).double()
    h = bits[:, None].expand(-1, 16, -1)
    total = small.log_joint(images, h).logsumexp((0, 1))
    assert float(total) == pytest.approx(0, abs=1e-12)


def test_bound_is_below_the_likelihood_by_the_divergence_from_the_posterior(model, x, states):
    logits = model.encode(x)
    log_p = model.log_joint(x, states)
    log_q = log_bernoulli(states, logits)
    evidence = log_p.logsumexp(0)
    gap = (log_q.exp() * (log_q - log_p + evidence)).sum(0)
    h = draw(logits, 40_000, source())
    estimate = bound(model, x, logits, h)
    assert (gap > 0).all()
    torch.testing.assert_close(estimate, evidence - gap, atol=0.1, rtol=0)


def test_mean_weight_is_the_likelihood(model, x, states):
    logits = model.encode(x)
    log_w = log_weights(model, x, logits, states)
    exact = model.log_joint(x, states).logsumexp(0)
    torch.testing.assert_close((log_w + log_bernoulli(states, logits)).logsumexp(0), exact)


def test_importance_sampling_reaches_the_likelihood(model, x, states):
    exact = model.log_joint(x, states)
    posterior = exact.softmax(0)
    marginals = (posterior[..., None] * states).sum(0).clamp(1e-3, 1 - 1e-3).logit()
    few, many = (importance_log_likelihood(model, x, marginals, s, source()) for s in (20, 50_001))
    error = (many.log_likelihood - exact.logsumexp(0)).abs()
    assert error.max() < 0.05
    assert ((many.ess > 200) & (many.ess <= 50_001)).all()
    assert ((few.ess >= 1) & (few.ess <= 20)).all()
    one = importance_log_likelihood(model, x, marginals, 1, source())
    torch.testing.assert_close(one.ess, torch.ones(DATA, dtype=torch.double))


def test_a_latent_that_nothing_reads_costs_nothing(model, x):
    """Where q is the posterior, all weights are p(x): one sample is exact."""
    deaf = BeliefModel(lambda x: x, lambda h: torch.ones(len(h), PIXELS).double(), lambda: c)
    c = model.prior_logits()
    found = importance_log_likelihood(deaf, x, c.expand(DATA, -1), 7, source())
    torch.testing.assert_close(found.ess, torch.full((DATA,), 7.0, dtype=torch.double))
    torch.testing.assert_close(found.log_likelihood, log_bernoulli(x, torch.ones(PIXELS).double()))


def test_straight_through_has_the_gradient_of_the_mean():
    logits = (4 * uniform(3, LATENT) - 2).requires_grad_(True)
    noise = uniform(8, 3, LATENT, seed=1)
    h = straight_through(logits, noise)
    assert torch.equal(h.detach().round(), (noise < logits.sigmoid()).double())
    torch.testing.assert_close(h.detach(), h.detach().round(), atol=1e-12, rtol=0)
    weight = uniform(8, 3, LATENT, seed=2)
    (found,) = torch.autograd.grad((weight * h).sum(), logits)
    mean = logits.detach().sigmoid()
    torch.testing.assert_close(found, weight.sum(0) * mean * (1 - mean))


def test_a_module_is_a_model():
    net = SigmoidBeliefNet(latent=3, in_features=4)
    x = torch.ones(2, 4)
    found = belief_model(net)
    assert torch.equal(found.encode(x), net.encode(x))
    assert found.log_joint(x, torch.zeros(5, 2, 3)).shape == (5, 2)
