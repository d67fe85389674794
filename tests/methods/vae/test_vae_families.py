"""A family starts from any posterior as far as it can hold it, and refinement loses none of it."""

import pytest
import torch
from torch import nn

from bnnkit.bayes.posteriors import Diagonal, Either, FullRank, MatrixNormal
from bnnkit.errors import UsageError
from bnnkit.methods.vae.families import as_full, fall_back, start
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.refine import refine
from bnnkit.spec.vae_refine import RefineConfig

N, D = 3, 6


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diagonal():
    return Diagonal(normal(N, D, seed=0), 0.4 * normal(N, D, seed=1) - 0.5)


def full():
    return FullRank(normal(N, D, seed=2), 0.5 * normal(N, D, D, seed=3), normal(N, D, seed=4))


def matrix():
    return MatrixNormal(
        normal(N, D, seed=5),
        0.5 * normal(N, 3, 3, seed=6), 0.3 * normal(N, 3, seed=7),
        0.5 * normal(N, 2, 2, seed=8), 0.3 * normal(N, 2, seed=9),
    )  # fmt: skip


GAUSSIAN = [diagonal, full, matrix]


def covariance(q):
    """Return the covariance by draws of unit noise: z - m is linear in it."""
    columns = q.sample(torch.eye(D, dtype=torch.float64).unsqueeze(1).expand(-1, N, -1))[0]
    factor = (columns - q.centre()).permute(1, 2, 0)
    return factor @ factor.mT


@pytest.mark.parametrize("make", GAUSSIAN)
def test_a_full_covariance_holds_every_gaussian(make):
    q = make()
    held = start("full", q)
    torch.testing.assert_close(covariance(held), covariance(q))
    z = normal(5, N, D, seed=10)
    torch.testing.assert_close(held.log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("family", ["diag", "mn:3x2", "mn:2x3", "mn:6x1", "flow"])
@pytest.mark.parametrize("make", GAUSSIAN)
def test_other_families_keep_mean_and_deviations(make, family):
    q = make()
    found = start(family, q)
    if family == "mn:3x2" and make is matrix:
        assert found is q
        return
    assert torch.equal(found.parameters()[0], q.mean)
    if not family.startswith("mn"):
        torch.testing.assert_close(found.log_sigma.exp(), q.marginals()[1])
    else:  # the mean of the log deviations is what the nearest one keeps
        wanted, given = (p.marginals()[1].log().mean(1) for p in (q, found))
        torch.testing.assert_close(given, wanted)


def test_a_matrix_that_does_not_hold_the_latents_is_refused():
    with pytest.raises(UsageError, match="product is 6"):
        start("mn:4x2", matrix())


def test_what_was_not_improved_is_what_it_was():
    mask = torch.tensor([True, False, True])
    z = normal(4, N, D, seed=11)
    other = start("mn:2x3", matrix())
    for q, first in ((other, matrix()), (as_full(diagonal()), matrix()), (diagonal(), full())):
        kept = fall_back(q, first, mask)
        assert isinstance(kept, Either)
        expected = torch.where(mask, q.log_prob(z), first.log_prob(z))
        torch.testing.assert_close(kept.log_prob(z), expected)
    assert isinstance(fall_back(start("mn:3x2", diagonal()), matrix(), mask), MatrixNormal)


def under(world, q):
    """Return a linear-Gaussian model whose own posterior is q."""
    where = {tuple(row.tolist()): i for i, row in enumerate(world.x)}

    def encode(x):
        return (torch.tensor([where[tuple(row.tolist())] for row in x]),)

    return LatentModel(encode, world.model.decode, "gaussian", 4, family=lambda rows: q.rows(rows))


@pytest.mark.parametrize("family", ["diag", "full", "mn:2x2"])
def test_the_exact_posterior_is_kept(linear_gaussian, family):
    """log p(x, z) - log q(z) is log p(x) for any draw: nothing gains, and nothing is lost."""
    world = linear_gaussian()
    factor = torch.linalg.cholesky(torch.linalg.inv(world.precision))
    exact = FullRank.from_factor(world.mean, factor.expand(5, 4, 4).contiguous())
    model = under(world, exact)
    config = RefineConfig(family=family, steps=5, batch_size=2)
    refined = refine(model, world.x, config, generator=torch.Generator().manual_seed(0))
    assert torch.equal(refined.elbo_after, refined.elbo_before)
    noise = normal(7, 5, 4, seed=12)
    z, log_q = refined.posterior.sample(noise)
    evidence = model.log_joint(world.x, z) - log_q
    torch.testing.assert_close(evidence, world.evidence().expand(7, 5))


@pytest.mark.parametrize("family", ["diag", "full", "mn:2x2", "mn:4x1"])
@pytest.mark.parametrize("first", ["full", "mn:2x2"])
def test_no_bound_is_below_the_trained_posteriors(family, first):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder, encoder = nn.Linear(4, 30), nn.Linear(30, 8)
        x = torch.bernoulli(torch.rand(12, 30))
    decoder.weight.data.mul_(3)

    def trained(mean, log_sigma):
        q = start(first, Diagonal(mean, log_sigma - 0.5))
        return q.replace([t + 0.2 for t in q.parameters()])

    model = LatentModel(
        lambda x: tuple(encoder(x).chunk(2, 1)), lambda z: (decoder(z),), "bernoulli", 4,
        family=trained,
    )  # fmt: skip
    config = RefineConfig(family=family)
    refined = refine(model, x, config, generator=torch.Generator().manual_seed(0))
    assert type(refined.amortised) is type(start(first, Diagonal(*model.encode(x))))
    assert (refined.elbo_after >= refined.elbo_before).all()
    assert refined.elbo_after.mean() > refined.elbo_before.mean() + 1
    noise = torch.randn(3000, 12, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (
            (model.log_joint(x, z) - log_q).mean(0)
            for z, log_q in (q.sample(noise) for q in (refined.amortised, refined.posterior))
        )
    assert (after > before - 0.3).all()
