"""The matrix normal against dense covariances: determinants, forms, divergence, Minkowski."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from bnnkit.bayes.gaussian_ard import group_kl
from bnnkit.bayes.matrix_normal import (
    kronecker_log_det,
    lower_factor,
    minkowski_log_det,
    precision_diagonal,
    row_variance,
    whiten,
)

N, M = 4, 3


@pytest.fixture
def parts():
    """Parameters of A [4, 4] and B [3, 3], means [4, 3]."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "a": (normal(N, N).tril(-1), 0.5 * normal(N)),
        "b": (normal(M, M).tril(-1), 0.5 * normal(M)),
        "means": normal(N, M),
        "d": 0.3 + normal(N, M).square(),
    }


def dense(parts):
    """Covariance of vec(W) in row-major order."""
    a, b = lower_factor(*parts["a"]), lower_factor(*parts["b"])
    return torch.kron(a @ a.mT, b @ b.mT)


def test_factor_is_lower_triangular_with_an_exponential_diagonal(parts):
    a = lower_factor(*parts["a"])
    assert bool((a.triu(1) == 0).all())
    torch.testing.assert_close(a.diagonal(), parts["a"][1].exp())
    torch.testing.assert_close(row_variance(*parts["a"]), (a @ a.mT).diagonal())


def test_samples_have_the_kronecker_covariance(parts):
    a, b = lower_factor(*parts["a"]), lower_factor(*parts["b"])
    x = torch.randn(200_000, N, M, generator=torch.Generator().manual_seed(1)).double()
    w = (a @ x @ b.mT).flatten(1)
    torch.testing.assert_close(torch.cov(w.T), dense(parts), rtol=0.05, atol=0.05)


def test_log_det_is_that_of_the_dense_covariance(parts):
    got = kronecker_log_det(parts["a"][1], parts["b"][1])
    torch.testing.assert_close(got, torch.logdet(dense(parts)))


def test_divergence_is_that_of_multivariate_normals(parts):
    log_tau = torch.linspace(-1, 1, N).double()[:, None]
    log_gamma = torch.linspace(0.5, -0.5, M).double()[None]
    variance = row_variance(*parts["a"])[:, None] * row_variance(*parts["b"])
    got = group_kl(
        parts["means"].square() + variance,
        kronecker_log_det(parts["a"][1], parts["b"][1]),
        log_tau,
        log_gamma,
    )
    zeros = torch.zeros(N * M).double()
    prior = MultivariateNormal(zeros, torch.diag((-(log_tau + log_gamma)).exp().flatten()))
    posterior = MultivariateNormal(parts["means"].flatten(), dense(parts))
    torch.testing.assert_close(got, kl_divergence(posterior, prior))


def test_minkowski_lies_between_the_larger_part_and_the_sum(parts):
    k, size = dense(parts), N * M
    for scale in (1e-6, 0.1, 1.0, 10.0, 1e6):
        d = torch.diag(scale * parts["d"].flatten())
        first, second = torch.logdet(k), torch.logdet(d)
        bound = minkowski_log_det(first, second, size)
        assert float(bound) <= float(torch.logdet(k + d)) + 1e-9
        assert float(bound) >= max(float(first), float(second))


def test_minkowski_is_exact_for_multiples(parts):
    k = dense(parts)
    bound = minkowski_log_det(torch.logdet(k), torch.logdet(3 * k), N * M)
    torch.testing.assert_close(bound, torch.logdet(4 * k))


def test_minkowski_is_finite_far_away():
    first = torch.tensor([-4e4, 4e4], requires_grad=True)
    bound = minkowski_log_det(first, torch.tensor([4e4, -4e4]), 10)
    bound.sum().backward()
    torch.testing.assert_close(bound, torch.tensor([4e4, 4e4]))
    assert bool(torch.isfinite(first.grad).all())


def test_what_the_density_loses_with_a_row(parts):
    a, b = lower_factor(*parts["a"]), lower_factor(*parts["b"])
    posterior = MultivariateNormal(parts["means"].flatten(), dense(parts))
    at_means = posterior.log_prob(parts["means"].flatten())
    lost = []
    for i in range(N):
        closed = parts["means"].clone()
        closed[i] = 0
        lost.append(2 * (at_means - posterior.log_prob(closed.flatten())))
    within = whiten(b, parts["means"].mT).square().sum(0)
    torch.testing.assert_close(within * precision_diagonal(a), torch.stack(lost))


def test_gradients_are_finite_differences(parts):
    def divergence(relative_a, log_a, relative_b, log_b, means):
        variance = row_variance(relative_a, log_a)[:, None] * row_variance(relative_b, log_b)
        zero = torch.zeros(1, 1).double()
        return group_kl(means.square() + variance, kronecker_log_det(log_a, log_b), zero, zero)

    inputs = [t.requires_grad_() for t in (*parts["a"], *parts["b"], parts["means"])]
    assert torch.autograd.gradcheck(divergence, inputs)
