"""The objectives of an autoencoder: their limits, their order, and the two estimators."""

import math

import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal
from bnnkit.methods.vae.amortised import AmortisedPosterior, terms_of
from bnnkit.methods.vae.annealed import annealed_terms
from bnnkit.methods.vae.encoding import Encoded, FeatureTap, used_parameters
from bnnkit.methods.vae.fit_losses import kl_between
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.objectives import Terms, elbo, iwae, renyi
from bnnkit.spec.vae_fit import parse_posterior

D, PIXELS, N = 4, 6, 3


@pytest.fixture
def model():
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(D, PIXELS, generator=source)
    return LatentModel(lambda x: (x[:, :D], x[:, :D] - 1), lambda z: (z @ weight,), "bernoulli", D)


@pytest.fixture
def x():
    return torch.bernoulli(
        torch.full((N, PIXELS), 0.5), generator=torch.Generator().manual_seed(1)
    )


def encoded(x):
    mean = 0.5 * x[:, :D]
    return Encoded(mean, 0.3 * x[:, 1 : D + 1] - 1, x)


def drawn_terms(model, x, family="diag", samples=1, seed=0):
    posterior = AmortisedPosterior(parse_posterior(family), D, PIXELS)
    noise = posterior.noise(len(x), samples, torch.Generator().manual_seed(seed))
    return terms_of(model, x, posterior(encoded(x), noise))


def random_terms(samples):
    source = torch.Generator().manual_seed(2)
    parts = (torch.randn(samples, 5, generator=source, dtype=torch.float64) for _ in range(3))
    return Terms(*parts)


def test_iwae_with_one_sample_is_the_elbo():
    terms = random_terms(1)
    torch.testing.assert_close(iwae(terms), elbo(terms))


def test_renyi_bounds_fall_with_their_order_from_iwae_to_the_elbo():
    terms = random_terms(50)
    torch.testing.assert_close(renyi(terms, 0.0), iwae(terms))
    torch.testing.assert_close(renyi(terms, 1.0), elbo(terms))
    torch.testing.assert_close(renyi(terms, 1 - 1e-5), elbo(terms), rtol=1e-3, atol=1e-3)
    values = torch.stack([renyi(terms, a) for a in (-1.0, 0.0, 0.5, 1.0, 2.0)])
    assert (values.diff(dim=0) <= 1e-9).all()


@pytest.mark.parametrize("family", ["diag", "mn:2x2", "full"])
def test_both_estimators_agree_in_expectation_and_b_varies_less(model, x, family):
    terms = drawn_terms(model, x, family, samples=20_000)
    a = terms.log_likelihood + terms.log_prior - terms.log_q
    b = terms.log_likelihood - terms.kl
    gap = (a - b).mean(0).abs()
    assert (gap <= 4 * (a - b).std(0) / math.sqrt(len(a))).all()
    assert (b.var(0) < a.var(0)).all()
    torch.testing.assert_close(elbo(terms), a.mean(0))
    torch.testing.assert_close(elbo(terms, analytic=True), b.mean(0), rtol=1e-4, atol=1e-4)


def test_a_weight_scales_the_divergence_alone(model, x):
    terms = drawn_terms(model, x, samples=3)
    plain, half = (elbo(terms, weight=w, analytic=True) for w in (1.0, 0.5))
    torch.testing.assert_close(half - plain, 0.5 * terms.kl)


def test_estimator_b_needs_a_closed_form():
    with pytest.raises(ValueError, match="closed form"):
        elbo(random_terms(1), analytic=True)


@pytest.mark.parametrize("family", ["iaf:2", "realnvp:2", "planar:3"])
def test_a_flow_starts_as_the_encoders_gaussian(model, x, family):
    if not family.startswith("planar"):
        pytest.importorskip("zuko")
    plain, flow = (drawn_terms(model, x, name, samples=4) for name in ("diag", family))
    torch.testing.assert_close(flow.log_weight, plain.log_weight, rtol=1e-4, atol=1e-4)
    assert flow.kl is None


@pytest.mark.parametrize("family", ["mn:2x2", "full", "iaf:2", "planar:3", "hvi:2"])
def test_a_posterior_is_seeded_and_leaves_the_global_state(family):
    if family.startswith("iaf"):
        pytest.importorskip("zuko")
    before = torch.random.get_rng_state()
    first, second = (AmortisedPosterior(parse_posterior(family), D, 5, seed=3) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", ["diag", "full", "hvi:3"])
def test_weights_of_any_family_average_to_the_evidence(family):
    """E[p(x, z) / q] is p(x), by quadrature in one dimension."""
    slope = torch.tensor([[1.5, -1.0]])
    model = LatentModel(lambda x: (x, x), lambda z: (z @ slope,), "bernoulli", 1)
    x = torch.tensor([[1.0, 0.0]])
    grid = torch.linspace(-8, 8, 4001).reshape(-1, 1, 1)
    evidence = torch.logsumexp(model.log_joint(x, grid), 0) + math.log(16 / 4000)
    posterior = AmortisedPosterior(parse_posterior(family), 1, 2)
    start = Encoded(torch.tensor([[0.4]]), torch.tensor([[0.0]]), x)
    noise = posterior.noise(1, 100_000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = iwae(terms_of(model, x, posterior(start, noise)))
    torch.testing.assert_close(found, evidence, atol=0.02, rtol=0)


def test_annealed_terms_are_of_one_datum(model, x):
    posterior = AmortisedPosterior(parse_posterior("hvi:3"), D, PIXELS)
    noise = posterior.noise(N, 2, torch.Generator().manual_seed(0))

    def terms(rows):
        start = encoded(x[rows])
        drawn = posterior(start, noise[:, rows], detach=True)
        return annealed_terms(model, x[rows], start, drawn)

    together = terms(slice(None))
    assert together.shape == (N,)
    for i in range(N):  # a batch sum in any step would make these differ
        torch.testing.assert_close(terms(slice(i, i + 1))[0], together[i], rtol=1e-4, atol=1e-4)


def test_the_divergence_between_gaussians():
    from torch.distributions import Independent, Normal, kl_divergence

    source = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, 3, generator=source) for _ in range(4)]
    q, p = Diagonal(*parts[:2]), Diagonal(*parts[2:])
    reference = kl_divergence(*(Independent(Normal(d.mean, d.log_sigma.exp()), 1) for d in (q, p)))
    torch.testing.assert_close(kl_between(q, p), reference)


def test_the_tap_reads_what_the_last_layer_reads():
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 5), "b": torch.nn.Linear(5, 8)})

    def encode(x):
        return tuple(net["b"](net["a"](x).tanh()).chunk(2, 1))

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    tap = FeatureTap(encode, net, x)
    assert tap.width == 5
    torch.testing.assert_close(tap(x).features, net["a"](x).tanh())
    plain = FeatureTap(lambda x: (x[:, :2], x[:, 2:4]), torch.nn.Identity(), x)
    torch.testing.assert_close(plain(x).features, x[:, :4])
    assert used_parameters(lambda: net["a"](x), net) == {"a.weight", "a.bias"}
