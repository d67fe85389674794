"""Refinement: closed forms on a linear-Gaussian model, and laws on a small net."""

import pytest
import torch
from torch import nn

from bnnkit.bayes.posteriors import Either, FullRank
from bnnkit.errors import UsageError
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.refine import refine
from bnnkit.methods.vae.regret import likelihood_regret
from bnnkit.spec.vae_refine import OPTIMISERS, RefineConfig


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def net():
    """A small Bernoulli autoencoder with rough weights, and data for it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        decoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 30))
        encoder = nn.Linear(30, 8)
        x = torch.bernoulli(torch.rand(12, 30))
    for p in decoder.parameters():
        p.data.mul_(3)
    model = LatentModel(
        lambda x: tuple(encoder(x).chunk(2, 1)), lambda z: (decoder(z),), "bernoulli", 4
    )
    return model, x, decoder


def exact(model, x, q, seed=9):
    """Return the bound of many draws, the same for every posterior."""
    noise = torch.randn(4000, len(x), model.latent, generator=generator(seed)).to(x)
    with torch.no_grad():
        return model.log_likelihood(x, q.sample(noise)[0]).mean(0) - q.kl()


@pytest.mark.parametrize("optimiser", ["natural", "adam"])
def test_full_covariance_reaches_the_evidence(linear_gaussian, optimiser):
    world = linear_gaussian()
    steps = {"natural": 20, "adam": 600}[optimiser]
    rate = {"natural": 1.0, "adam": None}[optimiser]  # of rate 1: Newton's step
    config = RefineConfig(family="full", optimiser=optimiser, steps=steps, lr=rate)
    refined = refine(world.model, world.x, config, generator=generator())
    z, log_q = refined.posterior.sample(torch.randn(50, 5, 4, generator=generator(1)).double())
    terms = world.model.log_joint(world.x, z) - log_q  # constant, if q is the posterior
    close = {"natural": 1e-4, "adam": 0.2}[optimiser]
    assert terms.mean(0) == pytest.approx(world.evidence(), abs=close)
    assert (refined.elbo_after <= world.evidence() + 5 * refined.se_after).all()


@pytest.mark.parametrize("family", ["diag", "mn:4x1", "mn:2x2"])
@pytest.mark.parametrize("optimiser", ["natural", "adam"])
def test_other_families_reach_their_closed_forms(linear_gaussian, family, optimiser):
    world = linear_gaussian(seed=1)
    steps = {"natural": 40, "adam": 600}[optimiser]
    config = RefineConfig(family=family, optimiser=optimiser, steps=steps, samples=8)
    refined = refine(world.model, world.x, config, generator=generator())
    bound = exact(world.model, world.x, refined.posterior)
    noise = 0.15  # of the mean of 4000 draws; the differences sought are many nats
    if family == "diag":
        assert bound == pytest.approx(world.best_diagonal(), abs=noise)
    elif family == "mn:4x1":  # one column: any covariance
        assert bound == pytest.approx(world.evidence(), abs=noise)
    else:
        assert (bound < world.evidence() + noise).all()
        assert (bound > world.best_diagonal() - 1.5).all()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("family", ["diag", "full", "mn:2x2", "flow"])
def test_no_datum_is_worse_than_it_began(net, family, optimiser):
    model, x, _ = net
    if family == "flow" and optimiser == "natural":
        return
    refined = refine(
        model, x, RefineConfig(family=family, optimiser=optimiser), generator=generator()
    )
    assert (refined.decided_gain >= 0).all()
    assert torch.equal(refined.decided_gain > 0, refined.improved)
    same = ~refined.improved
    assert torch.equal(refined.elbo_after[same], refined.elbo_before[same])
    assert refined.elbo_after.mean() > refined.elbo_before.mean() + 1
    assert (refined.elbo_after - refined.elbo_before > -4 * refined.se_gain - 1e-6).all()
    assert refined.curves.shape == (12, 21)
    assert torch.equal(likelihood_regret(refined), refined.elbo_after - refined.elbo_before)


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_no_rate_makes_it_worse(net, optimiser, rate):
    model, x, _ = net
    config = RefineConfig(optimiser=optimiser, lr=rate)
    refined = refine(model, x, config, generator=generator())
    gain = exact(model, x, refined.posterior) - exact(model, x, refined.amortised)
    assert torch.isfinite(refined.elbo_after).all()
    assert (gain > -0.1).all()
    assert all(torch.isfinite(t).all() for t in refined.posterior.parameters())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_what_is_not_a_number_stays_with_its_datum(net, optimiser):
    model, x, _ = net
    poisoned = x[5]

    def log_prior(z):  # a decoder's trap around one datum's latents
        return -0.5 * z.square().sum(-1)

    def encode(data):
        mean, log_sigma = model.encode(data)
        bad = (data == poisoned).all(1, keepdim=True)
        return torch.where(bad, torch.full_like(mean, 40.0), mean), log_sigma

    def decode(z):
        (logits,) = model.decode(z)
        trapped = (z.mean(1, keepdim=True) > 20) & (z[:, :1] < 40.0)
        return (torch.where(trapped, torch.full_like(logits, float("nan")), logits),)

    trap = LatentModel(encode, decode, "bernoulli", 4, log_prior, standard_prior=False)
    refined = refine(trap, x, RefineConfig(optimiser=optimiser), generator=generator())
    assert refined.diverged.nonzero().flatten().tolist() == [5]
    assert not refined.improved[5]
    assert torch.equal(refined.posterior.mean[5], refined.amortised.mean[5])
    rest = torch.arange(12) != 5
    assert refined.improved[rest].float().mean() > 0.8
    assert torch.isfinite(refined.curve).all()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_datum_alone_is_refined_as_in_a_batch(net, optimiser):
    model, x, _ = net
    batches = [
        refine(model, x, RefineConfig(optimiser=optimiser, batch_size=size), generator=generator())
        for size in (1, 5, 12)
    ]
    for other in batches[1:]:
        torch.testing.assert_close(
            other.posterior.mean, batches[0].posterior.mean, rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(other.elbo_after, batches[0].elbo_after, rtol=1e-3, atol=1e-3)


def test_the_decoder_is_left_alone(net):
    model, x, decoder = net
    before = [(p.clone(), p.requires_grad) for p in decoder.parameters()]
    refine(model, x, RefineConfig(optimiser="adam", steps=3), generator=generator())
    for p, (value, flag) in zip(decoder.parameters(), before, strict=True):
        assert p.grad is None
        assert p.requires_grad == flag
        assert torch.equal(p, value)


def test_matrix_normal_falls_back_to_what_it_cannot_hold(net):
    model, x, _ = net
    config = RefineConfig(family="mn:2x2", optimiser="sgd", steps=0)
    refined = refine(model, x, config, generator=generator())
    assert isinstance(refined.posterior, Either)
    z = torch.randn(3, 12, 4, generator=generator(5))
    kept = ~refined.improved
    torch.testing.assert_close(
        refined.posterior.log_prob(z)[:, kept], refined.amortised.log_prob(z)[:, kept]
    )


def test_no_steps_change_nothing(net):
    model, x, _ = net
    refined = refine(
        model, x, RefineConfig(family="full", optimiser="adam", steps=0), generator=generator()
    )
    assert isinstance(refined.posterior, FullRank)
    assert not refined.improved.any()
    assert torch.equal(refined.elbo_after, refined.elbo_before)


def test_progress_counts_data(net):
    model, x, _ = net
    seen = []
    refine(
        model,
        x,
        RefineConfig(steps=1, batch_size=5),
        generator=generator(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_a_matrix_that_does_not_hold_the_latents_is_refused(net):
    model, x, _ = net
    with pytest.raises(UsageError, match="4 latents"):
        refine(model, x, RefineConfig(family="mn:3x2"), generator=generator())
