"""Targets between two densities, the bound of a chain, and the annealed terms of each datum."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from bnnkit.bayes.annealing import (
    SCHEDULES,
    alphas,
    chain_elbo,
    path_log_target,
    transition_terms,
    warm_up,
)


def normal(mean, scale):
    return Independent(Normal(mean, scale), 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("transitions", [1, 2, 9])
def test_a_path_rises_to_one(schedule, transitions):
    path = alphas(transitions, schedule)
    steps = torch.cat([torch.zeros(1), path]).diff()
    assert path.shape == (transitions,)
    assert bool((steps > 0).all())
    assert float(path[-1]) == pytest.approx(1, abs=1e-6)


def test_a_schedule_that_is_not_known():
    with pytest.raises(ValueError, match="cubic"):
        alphas(3, "cubic")


def test_targets_between_two_gaussians_are_gaussian():
    """The geometric path of Gaussians has precisions and shifts in between (closed form)."""
    z, alpha = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0)), alphas(3)
    first, last = normal(torch.zeros(2), 2 * torch.ones(2)), normal(torch.ones(2), torch.ones(2))
    path = path_log_target(last.log_prob(z), first.log_prob(z), alpha)
    for t, a in enumerate(alpha):
        precision = (1 - a) / 4 + a
        exact = normal(a / precision * torch.ones(2), precision.rsqrt() * torch.ones(2))
        constant = path[t] - exact.log_prob(z[t])
        assert torch.allclose(constant, constant[0].expand(50), atol=1e-4)
    assert torch.allclose(path[-1], last.log_prob(z[-1]))


def gaussian_chain(n, seed=0):
    """A chain N(0, 1), z' = .8 z + .6 e, whose every margin is N(0, 1), with its true reverse."""
    draw = torch.Generator().manual_seed(seed)
    z = [torch.randn(n, 2, generator=draw)]
    forward, reverse = [], []
    for _ in range(3):
        after = 0.8 * z[-1] + 0.6 * torch.randn(n, 2, generator=draw)
        forward.append(normal(0.8 * z[-1], 0.6 * torch.ones(2)).log_prob(after))
        reverse.append(normal(0.8 * after, 0.6 * torch.ones(2)).log_prob(z[-1]))
        z.append(after)
    return z, torch.stack(forward), torch.stack(reverse)


def test_the_bound_is_tight_where_the_reverse_is_exact():
    z, forward, reverse = gaussian_chain(100)
    standard = normal(torch.zeros(2), torch.ones(2))
    bound = chain_elbo(
        standard.log_prob(z[-1]) + math.log(7), standard.log_prob(z[0]), forward, reverse
    )
    assert torch.allclose(bound, torch.full((100,), math.log(7)), atol=1e-4)


def test_the_weights_of_a_chain_average_to_the_constant():
    z, forward, _ = gaussian_chain(200_000)
    standard = normal(torch.zeros(2), torch.ones(2))
    reverse = torch.stack(  # one that is wrong, and narrower than the true one
        [normal(0.7 * z[t + 1], 0.55 * torch.ones(2)).log_prob(z[t]) for t in range(3)]
    )
    target = normal(0.3 * torch.ones(2), 0.9 * torch.ones(2))
    weight = chain_elbo(target.log_prob(z[-1]), standard.log_prob(z[0]), forward, reverse)
    assert float(weight.exp().mean()) == pytest.approx(1, abs=0.03)
    assert float(weight.mean()) < 0


def test_terms_are_per_datum():
    """A sum over the batch in any part would change the term of a datum with its neighbours."""
    z, forward, reverse = gaussian_chain(6)
    standard = normal(torch.zeros(2), torch.ones(2))
    path = standard.log_prob(torch.stack(z[1:]))
    terms = transition_terms(path, forward, reverse)
    assert terms.shape == (3, 6)
    for i in range(6):
        alone = transition_terms(path[:, i : i + 1], forward[:, i : i + 1], reverse[:, i : i + 1])
        assert torch.equal(terms[:, i], alone[:, 0])
    # the true reverse and a path of the true margins: each term is log q_{t-1}(z_{t-1})
    assert torch.allclose(terms, standard.log_prob(torch.stack(z[:-1])), atol=1e-4)


def test_terms_of_a_chain_sum_to_its_bound():
    """With no annealing the terms differ from the bound by what has no gradient."""
    z, forward, reverse = gaussian_chain(5)
    standard = normal(torch.zeros(2), torch.ones(2))
    ends = standard.log_prob(torch.stack(z[1:]))
    starts = standard.log_prob(torch.stack(z[:-1]))
    terms = transition_terms(ends, forward, reverse) - starts
    bound = chain_elbo(ends[-1], starts[0], forward, reverse)
    assert torch.allclose(terms.sum(0), bound, atol=1e-4)


def test_a_warm_up():
    assert [warm_up(i, 4, 0.2) for i in (0, 1, 4, 9)] == pytest.approx([0.2, 0.4, 1, 1])
    assert warm_up(0, 0, 0.2) == 1
