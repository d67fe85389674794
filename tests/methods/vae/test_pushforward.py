"""Posteriors that a network makes of an encoder's Gaussian, and what is known by draws alone."""

import math

import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal
from bnnkit.methods.vae.amortised import AmortisedPosterior, under_posterior
from bnnkit.methods.vae.encoding import Encoded, FeatureTap
from bnnkit.methods.vae.importance import elbo, importance
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.latents import latent_usage
from bnnkit.spec.vae_fit import parse_posterior

N, D, FEATURES = 20, 4, 6
FLOWS = ["iaf:2", "realnvp:2", "planar:3"]
ALL = ["diag", "mn:2x2", "full", *FLOWS, "hvi:2"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def encoded(n=N, seed=1):
    source = generator(seed)
    mean, log_sigma, features = (
        torch.randn(n, width, generator=source) for width in (D, D, FEATURES)
    )
    return Encoded(mean, 0.3 * log_sigma - 0.5, features)


def moved(family, size=0.2, latent=D, features=FEATURES):
    """Return a posterior of a family with weights that are no start, in float64."""
    if family.startswith(("iaf", "realnvp")):
        pytest.importorskip("zuko")
    posterior = AmortisedPosterior(parse_posterior(family), latent, features)
    source = generator(2)
    with torch.no_grad():
        for p in posterior.parameters():
            p += size * torch.randn(p.shape, generator=source)
    return posterior.double().requires_grad_(False)


def double(parts):
    return Encoded(*(t.double() for t in parts))


@pytest.mark.parametrize("family", ALL)
def test_one_distribution_in_training_and_in_judgement(family):
    posterior, found = moved(family), double(encoded())
    noise = posterior.noise(N, 3, generator()).double()
    q = posterior.at(found)
    assert noise.shape[-1] == q.noise_width
    drawn = posterior(found, noise)
    z, log_q = q.sample(noise)
    torch.testing.assert_close(z, drawn.z)
    torch.testing.assert_close(log_q, drawn.log_q)
    assert (drawn.kl is not None) == q.closed_kl == q.has_density
    rows = torch.tensor([3, 1])
    z, log_q = q.rows(rows).sample(noise[:, rows])
    torch.testing.assert_close(z, drawn.z[:, rows])
    torch.testing.assert_close(log_q, drawn.log_q[:, rows])


@pytest.mark.parametrize("family", FLOWS)
def test_the_density_of_a_flow_follows_by_its_jacobian(family):
    q = moved(family).at(double(encoded(1)))
    noise = torch.randn(1, 1, D, generator=generator(3)).double()
    z, log_q = q.sample(noise)

    def draw(e):
        return q.sample(e.view(1, 1, D))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(draw, noise.flatten())
    base = -0.5 * (noise.square().sum() + D * math.log(2 * math.pi))
    torch.testing.assert_close(log_q.squeeze(), base - torch.linalg.slogdet(jacobian).logabsdet)
    assert not torch.allclose(z, q.mean + q.log_sigma.exp() * noise, atol=0.05)
    with pytest.raises(NotImplementedError, match="its own draws"):
        q.log_prob(z)


@pytest.mark.parametrize("family", FLOWS)
def test_an_untrained_flow_has_the_moments_of_the_gaussian(family):
    q = moved(family, size=0.0).at(double(encoded()))
    plain = Diagonal(q.mean, q.log_sigma)
    for found, expected in zip(q.marginals(), plain.marginals(), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(q.kl(), plain.kl(), rtol=0, atol=0.3)


@pytest.mark.parametrize("family", ["planar:3", "hvi:2"])
def test_moments_are_those_of_many_draws(family):
    q = moved(family).at(double(encoded(3)))
    noise = torch.randn(20_000, 3, q.noise_width, generator=generator(4)).double()
    z, _ = q.sample(noise)
    mean, sigma = q.marginals()
    torch.testing.assert_close(mean, z.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(sigma, z.std(0), rtol=0.15, atol=0)
    assert torch.equal(q.centre(), mean)


def test_moments_do_not_depend_on_what_a_datum_is_batched_with():
    q = moved("hvi:2").at(double(encoded()))
    alone = q.rows(slice(17, 18))
    for one, many in zip(alone.marginals(), q.marginals(), strict=True):
        torch.testing.assert_close(one[0], many[17])


def test_a_latent_that_no_datum_moves_is_not_active():
    start = double(encoded())
    start.mean[:, 2], start.log_sigma[:, 2] = 0, 0
    q = moved("iaf:2", size=0.0).at(start)
    usage = latent_usage(q)
    assert usage.active.tolist() == [True, True, False, True]
    assert float(usage.activity[2]) < 1e-20


@pytest.mark.parametrize("family", ["full", "planar:3", "hvi:3"])
def test_importance_sampling_meets_the_evidence(family):
    """In one dimension p(x) is an integral; a bound is below it."""
    slope = torch.tensor([[1.5, -1.0]])
    model = LatentModel(lambda x: (0.4 * x[:, :1], 0 * x[:, :1]), lambda z: (z @ slope,),
                        "bernoulli", 1)  # fmt: skip
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    grid = torch.linspace(-8, 8, 4001).reshape(-1, 1, 1)
    evidence = torch.logsumexp(model.log_joint(x, grid), 0) + math.log(16 / 4000)
    tap = FeatureTap(model.encode, torch.nn.Identity(), x)
    size = 0.02 if family.startswith("hvi") else 0.2  # transitions back that fit the way ahead
    posterior = moved(family, size, latent=1, features=tap.width).float()
    judged = under_posterior(model, tap, posterior)
    q = judged.amortised(x)
    found = importance(judged, x, q, 50_000, generator=generator())
    torch.testing.assert_close(found.log_p[0].float(), evidence, atol=0.03, rtol=0)
    bound = elbo(judged, x, q, 20_000, generator=generator())
    assert (bound.bound < evidence + 4 * bound.se).all()
    # the first draws are the same for both
    one = importance(judged, x, q, 1, generator=generator()).log_p[0]
    again = elbo(judged, x, q, 1, generator=generator())
    torch.testing.assert_close(one, again.log_likelihood - again.kl_draws)


def test_the_tap_leaves_no_hook():
    layer = torch.nn.Linear(6, 8)
    tap = FeatureTap(lambda x: tuple(layer(x).chunk(2, 1)), layer, torch.zeros(2, 6))
    tap(torch.ones(3, 6))
    assert not layer._forward_pre_hooks
