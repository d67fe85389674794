"""Refined Bernoulli posteriors against the exact posterior and the best factorised one."""

import dataclasses

import pytest
import torch

from bnnkit.errors import UsageError
from bnnkit.methods.vae.belief import BeliefModel, belief_model, bernoulli_kl, log_bernoulli
from bnnkit.methods.vae.refine_binary import METHODS, BinaryRefinement, iterates, refine_binary
from bnnkit.zoo.belief_net import SigmoidBeliefNet

LATENT, PIXELS, DATA = 6, 9, 7


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(n=DATA, seed=0):
    """Return uniform numbers for n data, new ones at every call."""
    stream = source(seed)
    return lambda s: torch.rand(s, n, LATENT, generator=stream, dtype=torch.double)


def make(strength, seed=3):
    stream = source(seed)
    w, b, c, r = (
        torch.randn(shape, generator=stream, dtype=torch.double)
        for shape in ((LATENT, PIXELS), (PIXELS,), (LATENT,), (PIXELS, LATENT))
    )
    return BeliefModel(lambda x: 0.5 * x @ r, lambda h: strength * h @ w + b, lambda: c)


@pytest.fixture(scope="module")
def model():
    return make(1.0)


@pytest.fixture(scope="module")
def x():
    return (torch.rand(DATA, PIXELS, generator=source(1)) < 0.4).double()


def all_states():
    return ((torch.arange(2**LATENT)[:, None] >> torch.arange(LATENT)) & 1).double()


def exact_joint(model, x):
    return model.log_joint(x, all_states()[:, None].expand(-1, len(x), -1))


def exact_bound(model, x, logits):
    states = all_states()[:, None].expand(-1, len(x), -1)
    q = log_bernoulli(states, logits).exp()
    return (q * model.log_likelihood(x, states)).sum(0) - bernoulli_kl(
        logits, model.prior_logits()
    )


def coordinate_ascent(model, x, logits):
    """Return a factorised q that no change of one latent improves: exact conditional updates."""
    states, joint = all_states(), exact_joint(model, x)
    logits = logits.clone()
    for _ in range(200):
        for i in range(LATENT):
            others = [j for j in range(LATENT) if j != i]
            log_q = states[:, None, others] * logits[:, others]
            log_q = log_q.sum(-1) - torch.nn.functional.softplus(logits[:, others]).sum(-1)
            sign = 2 * states[:, i, None] - 1
            logits[:, i] = (sign * log_q.exp() * joint).sum(0)
    return logits


def test_adaptive_importance_sampling_finds_the_posterior_marginals(model, x):
    states, posterior = all_states(), exact_joint(model, x).softmax(0)
    marginals = torch.einsum("sn,sl->nl", posterior, states)
    config = BinaryRefinement("ais", steps=60, samples=5000)
    *_, (logits, _) = iterates(model, x, model.encode(x), config, draws())
    assert (model.encode(x).sigmoid() - marginals).abs().max() > 0.5  # it starts far from them
    assert (logits.sigmoid() - marginals).abs().max() < 0.02


def test_a_step_of_ais_is_the_damped_weighted_mean(model, x):
    """With many samples one step moves a share of the way to the marginals, whatever q is."""
    posterior = exact_joint(model, x).softmax(0)
    marginals = torch.einsum("sn,sl->nl", posterior, all_states())
    start = 0.3 * model.encode(x)
    config = BinaryRefinement("ais", steps=1, samples=100_000, rate=0.25)
    ((logits, _),) = iterates(model, x, start, config, draws())
    expected = 0.75 * start.sigmoid() + 0.25 * marginals
    torch.testing.assert_close(logits.sigmoid(), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(("method", "share"), [("straight-through", 0.9), ("centre", 0.8)])
def test_ascent_closes_most_of_the_gap_to_the_best_factorised_posterior(model, x, method, share):
    start = model.encode(x)
    best = exact_bound(model, x, coordinate_ascent(model, x, start))
    evidence = exact_joint(model, x).logsumexp(0)
    assert (best < evidence).all()
    config = BinaryRefinement(method, steps=60, samples=50, rate=0.2, judged=500, reported=500)
    refined = refine_binary(model, x, config, source())
    before, after = exact_bound(model, x, start), exact_bound(model, x, refined.posterior.logits)
    assert (after <= evidence).all()
    assert (after - before).mean() > share * (best - before).mean()
    torch.testing.assert_close(refined.elbo_before, before, atol=0.6, rtol=0)
    torch.testing.assert_close(refined.elbo_after, after, atol=0.3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("strength", [0.0, 1.0, 5.0])
def test_no_bound_is_reported_lower_than_it_started(x, method, rate, strength):
    model = make(strength)
    config = BinaryRefinement(method, steps=5, samples=3, rate=rate, judged=3, reported=4)
    refined = refine_binary(model, x, config, source())
    assert (refined.elbo_after >= refined.elbo_before).all()
    assert refined.posterior.logits.isfinite().all()
    assert not refined.diverged.any()
    assert refined.curve.shape == (6,)
    kept = torch.equal(
        refined.posterior.logits[~refined.improved], model.encode(x)[~refined.improved]
    )
    assert kept
    assert (refined.elbo_after > refined.elbo_before)[refined.improved].all()


@pytest.mark.parametrize("method", METHODS)
def test_a_datum_that_is_not_finite_does_not_touch_the_others(model, x, method):
    def decode(h):
        if len(h) % DATA:  # further draws of some of the sound data
            return model.decode(h)
        return torch.where(broken.repeat(len(h) // DATA)[:, None], torch.nan, model.decode(h))

    broken = torch.arange(DATA) == 2
    ill = dataclasses.replace(model, decode=decode)
    config = BinaryRefinement(method, steps=8, samples=6, judged=5, reported=50)
    sound, found = (refine_binary(m, x, config, source()) for m in (model, ill))
    assert torch.equal(found.diverged, broken)
    assert found.posterior.logits.isfinite().all()
    assert torch.equal(found.posterior.logits[2], model.encode(x)[2])
    torch.testing.assert_close(found.posterior.logits[~broken], sound.posterior.logits[~broken])


def test_a_datum_does_not_depend_on_its_neighbours(model, x):
    config = BinaryRefinement("centre", steps=10)
    together = [logits for logits, _ in iterates(model, x, model.encode(x), config, draws())]
    alone = [logits for logits, _ in iterates(model, x[:1], model.encode(x[:1]), config, draws(1))]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:1], b)


@pytest.mark.parametrize("method", METHODS)
def test_no_result_depends_on_the_batches(model, x, method):
    config = BinaryRefinement(method, steps=10, batch=3)
    told = []
    joined = refine_binary(model, x, config, source(), progress=lambda *done: told.append(done))
    assert told == [(3, DATA), (6, DATA), (7, DATA)]
    whole = refine_binary(model, x, dataclasses.replace(config, batch=DATA), source())
    for name in ("curves", "elbo_before", "elbo_after", "se_gain"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name))
    torch.testing.assert_close(joined.posterior.logits, whole.posterior.logits)


def test_parameters_of_the_model_gather_no_gradient(x):
    net = SigmoidBeliefNet(latent=4, in_features=PIXELS).double()
    for method in METHODS:
        refined = refine_binary(belief_model(net), x, BinaryRefinement(method, steps=2), source())
        assert not refined.posterior.logits.requires_grad
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        ({"method": "aiss"}, "'ais'"),
        ({"steps": 0}, "steps = 0"),
        ({"method": "ais", "rate": 1.5}, "1.5"),
        ({"rate": -1.0}, "-1.0"),
    ],
)
def test_values_without_a_meaning_are_refused(options, quoted):
    with pytest.raises(UsageError) as refusal:
        BinaryRefinement(**options)
    assert quoted in str(refusal.value)
