"""The Gauss-Newton precision, natural steps and noise, each against a definition."""

import pytest
import torch

from bnnkit.bayes.likelihoods import log_likelihood
from bnnkit.bayes.posteriors import Diagonal, FullRank, MatrixNormal
from bnnkit.methods.vae.curvature import gauss_newton_precision
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.natural import fit_spread
from bnnkit.methods.vae.noise import DatumNoise, balanced, datum_seeds


def test_a_linear_bernoulli_decoder_has_its_own_hessian():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=g, dtype=torch.float64)
    model = LatentModel(lambda x: (x, x), lambda z: (z @ weight,), "bernoulli", 3)
    mean = torch.randn(2, 3, generator=g, dtype=torch.float64)
    x = torch.bernoulli(torch.rand(2, 8, generator=g, dtype=torch.float64))
    found = gauss_newton_precision(model, mean, torch.full_like(mean, 1e-3))
    for i in range(2):
        hessian = torch.autograd.functional.hessian(
            lambda z, i=i: -log_likelihood("bernoulli", x[i], [z @ weight]) - model.log_prior(z),
            mean[i],
        )
        torch.testing.assert_close(found[i], hessian, rtol=1e-4, atol=1e-4)


def test_another_prior_counts_by_its_own_curvature(linear_gaussian):
    world = linear_gaussian(n=2)
    model = LatentModel(
        world.model.encode,
        world.model.decode,
        "gaussian",
        4,
        lambda z: -0.5 * (9 * z.square()).sum(-1),
        standard_prior=False,
    )
    found = gauss_newton_precision(model, world.mean, torch.full_like(world.mean, 0.1))
    expected = world.precision + 8 * torch.eye(4)
    torch.testing.assert_close(found, expected.expand_as(found))


@pytest.mark.parametrize("family", ["diag", "full", "mn"])
def test_the_spread_of_a_quadratic_is_where_the_bound_is_flat(linear_gaussian, family):
    world = linear_gaussian(n=2)
    zero = torch.zeros_like(world.mean)
    q = {
        "diag": lambda: Diagonal(world.mean, zero),
        "full": lambda: FullRank.amortised(world.mean, zero),
        "mn": lambda: MatrixNormal.amortised(world.mean, zero, 2, 2),
    }[family]()
    fitted = fit_spread(q, world.precision.expand(2, -1, -1)).leaves()
    eye = torch.eye(4, dtype=torch.float64).unsqueeze(1).expand(-1, 2, -1)
    root = fitted.sample(eye)[0] - fitted.sample(torch.zeros_like(eye))[0]  # columns of L
    energy = 0.5 * torch.einsum("kni,ij,knj->n", root, world.precision, root)
    entropy = -fitted.sample(torch.zeros_like(eye))[1][0]
    gradients = torch.autograd.grad(
        (energy - entropy).sum(), fitted.parameters(), allow_unused=True
    )
    flat = 1e-2 if family == "mn" else 1e-6  # by turns, a few rounds
    assert all(g is None or g.abs().max() < flat for g in gradients)


def test_balanced_noise_sums_to_zero_and_stays_standard():
    noise = torch.randn(5, 200_000, generator=torch.Generator().manual_seed(0))
    found = balanced(noise)
    assert found.mean(0).abs().max() < 1e-6
    assert float(found[0].var()) == pytest.approx(1, rel=0.02)
    pair = balanced(noise[:2])
    torch.testing.assert_close(pair[0], -pair[1])
    assert torch.equal(balanced(noise[:1]), noise[:1])


def test_noise_of_a_datum_does_not_depend_on_its_company():
    seeds = datum_seeds(6, torch.Generator().manual_seed(0))
    like = torch.zeros(1)
    whole = DatumNoise(seeds, 3, like)
    part = DatumNoise(seeds[4:], 3, like)
    for count in (2, 5):
        assert torch.equal(whole.draw(count)[:, 4:], part.draw(count))
