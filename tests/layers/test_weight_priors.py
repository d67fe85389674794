"""Priors of a layer: divergences against loops, best precisions, groups that are noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from bnnkit.bayes.gaussian_ard import ard_kl, sparse_vd_kl
from bnnkit.layers.bayesian_weights import Blocks, DiagonalWeights, MatrixNormalWeights
from bnnkit.layers.weight_priors import GroupPrior, SinglePrior


@pytest.fixture
def layer():
    """A grouped convolution with two of everything, and a posterior with uneven deviations."""
    torch_layer = nn.Conv2d(6, 4, (1, 2), groups=2).double()
    posterior = DiagonalWeights(torch_layer, -1.0)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (torch_layer.weight, posterior.log_sigma):
            tensor.copy_(torch.randn(tensor.shape, generator=source, dtype=torch.float64))
    return torch_layer.weight.detach().reshape(Blocks.of(torch_layer)), posterior


def group_prior(layer, groups="both", shared=True):
    return GroupPrior(*layer, groups, shared_over_kernel=shared)


@pytest.mark.parametrize("term", [sparse_vd_kl, ard_kl])
@torch.no_grad()
def test_single_weights_add_up(layer, term):
    mu, posterior = layer
    prior = SinglePrior(term)
    expected = sum(
        float(term(m, s)) for m, s in zip(mu.flatten(), posterior.log_sigma.flatten(), strict=True)
    )
    assert float(prior.kl(mu, posterior)) == pytest.approx(expected)


def test_single_weights_close_one_by_one(layer):
    mu, posterior = layer
    prior = SinglePrior(ard_kl)
    log_alpha = (posterior.variance() / mu.square()).log()
    threshold = float(log_alpha.median())
    left = prior.left(mu, posterior, threshold)
    assert int(left.sum()) == math.ceil(mu.numel() / 2)
    found = prior.relevance(mu, posterior)
    torch.testing.assert_close(found.rows[:, 0, :, 0], log_alpha.amin((1, 3)))
    torch.testing.assert_close(found.columns[:, :, 0, 0], log_alpha.amin((2, 3)))
    ratio = mu.square() / posterior.variance()
    torch.testing.assert_close(found.row_nats, 0.5 * ratio.sum((1, 3)))
    torch.testing.assert_close(found.column_nats, 0.5 * ratio.sum((2, 3)))


@pytest.mark.parametrize("groups", ["rows", "columns", "both", "layer"])
@pytest.mark.parametrize("shared", [True, False])
def test_group_prior_equals_a_loop_over_weights(layer, groups, shared):
    mu, posterior = layer
    prior = group_prior(layer, groups, shared)
    g, m, n, kernel = mu.shape
    tau, gamma = prior.log_tau.exp(), prior.log_gamma.exp()
    expected_tau = {"columns": (1, 1, 1, 1), "layer": (1, 1, 1, 1)}
    assert tau.shape == expected_tau.get(groups, (g, 1, n, 1 if shared else kernel))
    assert gamma.shape == ((g, m, 1, 1) if groups in ("columns", "both") else (1, 1, 1, 1))
    precision = (tau * gamma).expand(mu.shape).flatten()
    sigma = posterior.log_sigma.exp().flatten()
    expected = sum(
        float(kl_divergence(Normal(a, s), Normal(0 * a, p.rsqrt())))
        for a, s, p in zip(mu.flatten(), sigma, precision, strict=True)
    )
    assert float(prior.kl(mu, posterior)) == pytest.approx(expected)


@pytest.mark.parametrize("groups", ["rows", "columns", "both", "layer"])
def test_precisions_are_fitted_at_the_start_and_again_when_asked(layer, groups):
    mu, posterior = layer
    prior = group_prior(layer, groups)
    best = float(prior.kl(mu, posterior))
    for tensor in (prior.log_tau, prior.log_gamma):
        for factor in (0.9, 1.1):
            kept = tensor.clone()
            tensor.add_(math.log(factor))
            assert float(prior.kl(mu, posterior)) > best
            tensor.copy_(kept)
    moved = 2 * mu
    stale = float(prior.kl(moved, posterior))
    assert float(prior.kl(moved, posterior, fit=True)) < stale
    again = float(prior.kl(moved, posterior))  # and they are kept
    assert again == pytest.approx(float(prior.kl(moved, posterior, fit=True)), rel=1e-3)


def test_the_gradient_is_that_of_the_best_precisions(layer):
    """At the minimum over τ and γ, the derivative of the minimum is the partial one."""
    mu, posterior = layer
    mu = mu.clone().requires_grad_()
    prior = group_prior((mu.detach(), posterior))

    def least(value):
        return float(group_prior((value, posterior)).kl(value, posterior))

    (got,) = torch.autograd.grad(prior.kl(mu, posterior), mu)
    step = 1e-5
    for at in [(0, 0, 0, 0), (1, 1, 2, 1), (0, 1, 1, 0)]:
        shift = torch.zeros_like(mu)
        shift[at] = step
        slope = (least(mu.detach() + shift) - least(mu.detach() - shift)) / (2 * step)
        assert float(got[at]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", [DiagonalWeights, MatrixNormalWeights])
@pytest.mark.parametrize("groups", ["rows", "both"])
@pytest.mark.parametrize("log_sigma", [-20.0, 5.0])
def test_everything_is_finite_at_the_ends(kind, groups, log_sigma):
    torch_layer = nn.Conv2d(4, 4, 2)
    with torch.no_grad():
        values = torch.tensor([0.0, 1e-30, 1e-8, 50.0])
        torch_layer.weight.copy_(values[:, None, None, None].expand_as(torch_layer.weight))
        torch_layer.weight[:, 1] = 0
    posterior = kind(torch_layer, log_sigma)
    mu = torch_layer.weight.reshape(1, 4, 4, 4)
    prior = GroupPrior(mu.detach(), posterior, groups, shared_over_kernel=True)
    kl = prior.kl(mu, posterior, fit=True)
    kl.backward()
    found = prior.relevance(mu.detach(), posterior)
    gradients = [torch_layer.weight.grad, *(p.grad for p in posterior.parameters())]
    for tensor in (kl, *found, *gradients):
        assert bool(torch.isfinite(tensor).all())


def test_alpha_of_a_group_does_not_change_with_the_scale_of_inputs_or_outputs(layer):
    mu, posterior = layer
    before = group_prior(layer).relevance(mu, posterior)
    scale = torch.linspace(0.1, 5, 12).double().reshape(2, 1, 3, 2)
    scale = scale.mean(3, keepdim=True) * torch.tensor([0.01, 30.0]).double()[None, :, None, None]
    with torch.no_grad():
        posterior.log_sigma.add_(scale.log().expand(mu.shape).reshape(posterior.log_sigma.shape))
    after = group_prior((mu * scale, posterior)).relevance(mu * scale, posterior)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)


def test_one_used_weight_among_idle_ones_keeps_its_row():
    """Idle weights take the variance of the prior; Σσ²/Σμ² would call the whole row noise."""
    torch_layer = nn.Linear(2, 100)
    posterior = DiagonalWeights(torch_layer, 0.0)
    with torch.no_grad():
        torch_layer.weight.zero_()
        torch_layer.weight[0, 0] = 1.0
        posterior.log_sigma[0, 0] = -4.0
    mu = torch_layer.weight.detach().reshape(1, 100, 2, 1)
    variance = posterior.variance()
    assert float((variance[0, :, 0].sum() / mu[0, :, 0].square().sum()).log()) > 3
    prior = GroupPrior(mu, posterior, "rows", shared_over_kernel=True)
    log_alpha = prior.relevance(mu, posterior).rows.flatten()
    assert float(log_alpha[0]) < 3 < float(log_alpha[1])


def test_groups_decide_which_weights_are_left(layer):
    mu, posterior = layer
    mu = mu.clone()
    mu[0, :, 1] = 0  # a row of the first group
    mu[1, 0] = 0  # a column of the second
    left = {
        groups: group_prior((mu, posterior), groups).left(mu, posterior, 40.0)
        for groups in ("rows", "columns", "both", "layer")
    }
    row, column = torch.zeros_like(mu).bool(), torch.zeros_like(mu).bool()
    row[0, :, 1], column[1, 0] = True, True
    assert torch.equal(left["rows"], ~row)
    assert torch.equal(left["columns"], ~column)
    assert torch.equal(left["both"], ~(row | column))
    assert bool(left["layer"].all())


def test_kernel_positions_are_rows_of_their_own_unless_shared(layer):
    mu, posterior = layer
    mu = mu.clone()
    mu[0, :, 1, 0] = 0
    shared = group_prior((mu, posterior), "rows", shared=True).left(mu, posterior, 40.0)
    single = group_prior((mu, posterior), "rows", shared=False).left(mu, posterior, 40.0)
    assert bool(shared.all())
    assert int((~single).sum()) == mu.shape[1]
    assert not bool(single[0, :, 1, 0].any())


def test_a_matrix_normal_without_correlations_is_as_relevant_as_independent_weights():
    torch_layer = nn.Conv1d(3, 4, 2).double()
    diagonal, matrix = DiagonalWeights(torch_layer, -2.0), MatrixNormalWeights(torch_layer, -2.0)
    mu = torch_layer.weight.detach().reshape(1, 4, 3, 2)
    for shared in (True, False):
        a = GroupPrior(mu, diagonal, "both", shared_over_kernel=shared)
        b = GroupPrior(mu, matrix, "both", shared_over_kernel=shared)
        torch.testing.assert_close(a.kl(mu, diagonal), b.kl(mu, matrix))
        for x, y in zip(a.relevance(mu, diagonal), b.relevance(mu, matrix), strict=True):
            torch.testing.assert_close(x, y)
