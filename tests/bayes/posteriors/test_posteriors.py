"""Laws of all posterior families: one body for each law, over every family."""

import math

import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal, Either, FullRank, MatrixNormal
from bnnkit.methods.vae.flow_posterior import Flow

N, D, ROWS, COLUMNS = 3, 6, 3, 2
S = 100_000


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diagonal(seed=0):
    return Diagonal(normal(N, D, seed=seed), 0.4 * normal(N, D, seed=seed + 1) - 0.5)


def full(seed=2):
    return FullRank(
        normal(N, D, seed=seed),
        0.5 * normal(N, D, D, seed=seed + 1),
        0.3 * normal(N, D, seed=seed + 2) - 0.5,
    )


def matrix(seed=5):
    return MatrixNormal(
        normal(N, D, seed=seed),
        0.5 * normal(N, ROWS, ROWS, seed=seed + 1),
        0.3 * normal(N, ROWS, seed=seed + 2),
        0.5 * normal(N, COLUMNS, COLUMNS, seed=seed + 3),
        0.3 * normal(N, COLUMNS, seed=seed + 4) - 0.3,
    )


def flow(seed=9):
    q = Flow.amortised(normal(N, D, seed=seed), 0.3 * normal(N, D, seed=seed + 1) - 0.5, hidden=4)
    return q.replace([t + 0.2 * normal(*t.shape, seed=seed + 2) for t in q.parameters()])


def either():
    return Either(matrix(), diagonal(), torch.tensor([True, False, True]))


GAUSSIAN = {"diag": diagonal, "full": full, "mn": matrix}
ALL = {**GAUSSIAN, "flow": flow, "either": either}
families = pytest.mark.parametrize("family", ALL)


def covariance(q):
    """Return the covariance of each Gaussian from its definition, entry by entry."""
    if isinstance(q, Diagonal):
        return torch.diag_embed((2 * q.log_sigma).exp())
    if isinstance(q, FullRank):
        factors = [(q.lower, q.log_diagonal)]
    else:
        factors = [
            (q.row_lower, q.row_log_diagonal),
            (q.column_lower, q.column_log_diagonal),
        ]
    square = [
        torch.diag_embed(a.exp()) @ (torch.eye(a.shape[1], dtype=a.dtype) + lower.tril(-1))
        for lower, a in factors
    ]
    whole = square[0]
    if len(square) == 2:
        whole = torch.stack([torch.kron(a, b) for a, b in zip(*square, strict=True)])
    return whole @ whole.mT


@families
def test_log_density_of_draws_is_that_of_the_points(family):
    q = ALL[family]()
    z, log_q = q.sample(normal(50, N, D, seed=20))
    torch.testing.assert_close(q.log_prob(z), log_q)


@families
def test_density_follows_from_the_noise_by_the_jacobian(family):
    q, noise = ALL[family](), normal(1, N, D, seed=21)
    for i in range(N):
        one = q.rows(slice(i, i + 1))
        point = noise[:, i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda e, one=one: one.sample(e.view(1, 1, D))[0].flatten(), point.flatten()
        )
        base = -0.5 * (point.square().sum() + D * math.log(2 * math.pi))
        expected = base - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(one.sample(point)[1].squeeze(), expected)


@families
def test_moments_of_draws(family):
    q = ALL[family]()
    z, _ = q.sample(normal(S, N, D, seed=22))
    mean, sigma = q.marginals()
    loose = 0.2 if family == "flow" else 0.02  # a flow's own moments are by 256 draws
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=loose)
    torch.testing.assert_close(z.std(0), sigma, rtol=loose, atol=0)
    assert torch.equal(q.centre(), mean)


@families
def test_kl_is_that_of_monte_carlo(family):
    q = ALL[family]()
    z, log_q = q.sample(normal(S, N, D, seed=23))
    terms = log_q + 0.5 * (z.square().sum(-1) + D * math.log(2 * math.pi))
    error = terms.std(0) / S**0.5 if q.closed_kl else terms.std(0) / 256**0.5
    assert ((q.kl() - terms.mean(0)).abs() < 4 * error).all()
    assert (q.kl() > 0).all()


@pytest.mark.parametrize("family", GAUSSIAN)
def test_gaussians_equal_torchs_own(family):
    q = GAUSSIAN[family]()
    own = torch.distributions.MultivariateNormal(q.mean, covariance(q))
    prior = torch.distributions.MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    z = normal(7, N, D, seed=24)
    torch.testing.assert_close(q.log_prob(z), own.log_prob(z))
    torch.testing.assert_close(q.kl(), torch.distributions.kl_divergence(own, prior))
    torch.testing.assert_close(q.marginals()[1], own.variance.sqrt())


@families
def test_rows_join_and_where_keep_each_datum(family):
    q = ALL[family]()
    z = normal(4, N, D, seed=25)
    halves = q.rows(slice(0, 2)), q.rows(slice(2, 3))
    assert len(halves[0]) == 2
    assert torch.equal(halves[0].join([halves[1]]).log_prob(z), q.log_prob(z))
    if family == "either":
        return
    other, mask = q.replace([t + 0.1 for t in q.parameters()]), torch.tensor([True, False, True])
    expected = torch.where(mask, q.log_prob(z), other.log_prob(z))
    torch.testing.assert_close(q.where(mask, other).log_prob(z), expected)


@families
def test_gradients_reach_every_parameter(family):
    if family == "either":
        return
    q = ALL[family]().leaves()
    z, log_q = q.sample(normal(5, N, D, seed=26))
    (z.sin().sum() + log_q.square().sum()).backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in q.parameters())
    assert not any(t.requires_grad for t in q.detach().parameters())


@pytest.mark.parametrize("family", ["full", "flow"])
def test_families_that_hold_the_encoders_gaussian(family):
    kind = {"full": FullRank, "flow": Flow}[family]
    q, z = diagonal(), normal(9, N, D, seed=27)
    torch.testing.assert_close(kind.amortised(q.mean, q.log_sigma).log_prob(z), q.log_prob(z))


def test_matrix_normal_of_separable_deviations_is_exact():
    rows, columns = normal(N, ROWS, 1, seed=28), normal(N, 1, COLUMNS, seed=29)
    q = Diagonal(normal(N, D, seed=30), 0.3 * (rows + columns).flatten(1))
    z = normal(5, N, D, seed=31)
    found = MatrixNormal.amortised(q.mean, q.log_sigma, ROWS, COLUMNS)
    torch.testing.assert_close(found.log_prob(z), q.log_prob(z))


def test_full_from_a_factor():
    q = full()
    again = FullRank.from_factor(q.mean, q.factor())
    torch.testing.assert_close(again.factor(), q.factor())


@families
def test_state_names_all_tensors(family):
    q = ALL[family]()
    assert [id(t) for t in q.state().values()] == [id(t) for t in q.parameters()]
    assert all(len(t) == N for t in q.state().values())
