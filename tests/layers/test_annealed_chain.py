"""Chains of learned transitions: densities, where gradients go, contexts."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from bnnkit.layers.annealed_chain import AnnealedChain

T, D = 4, 3


def chain(context=0, seed=0):
    return AnnealedChain(D, T, 16, context=context, generator=torch.Generator().manual_seed(seed))


def walk(module, *lead, context=None, detach=False, seed=1):
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(*lead, D, generator=draw)
    noise = torch.randn(T, *lead, D, generator=draw)
    return module(start, start.new_zeros(lead), noise, context, detach=detach)


def density(part, t, at, of):
    """The log density of transition t by torch's own Gaussian."""
    mean, scale = part(at[None], None, slice(t, t + 1))
    return Independent(Normal(mean[0], scale[0]), 1).log_prob(of)


@pytest.mark.parametrize("detach", [False, True])
def test_log_densities_are_those_of_the_gaussians(detach):
    module = chain()
    path = walk(module, 20, detach=detach)
    assert len(path.z) == T + 1
    for t in range(T):
        before, after = path.z[t], path.z[t + 1]
        forward = density(module.ahead, t, before, after)
        reverse = density(module.back, t, after, before)
        assert torch.allclose(path.log_forward[t], forward, atol=1e-4)
        assert torch.allclose(path.log_reverse[t], reverse, atol=1e-4)


def test_detached_or_not_it_is_the_same_walk():
    module = chain()
    joined, parted = walk(module, 20), walk(module, 20, detach=True)
    for a, b in zip(joined.z, parted.z, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(joined.log_reverse, parted.log_reverse, atol=1e-4)


def reached(module, value):
    """Return the transitions whose parameters get a gradient, forward and back."""
    module.zero_grad()
    value.backward(retain_graph=True)
    return tuple(
        []
        if (grad := part.weights[0].grad) is None
        else [t for t in range(T) if bool(grad[t].any())]
        for part in (module.ahead, module.back)
    )


@pytest.mark.parametrize("t", range(T))
def test_a_detached_term_reaches_its_own_transition_only(t):
    module = chain()
    path = walk(module, 20, detach=True)
    term = path.log_reverse[t] - path.log_forward[t] - path.z[t + 1].square().sum(-1)
    assert reached(module, term.sum()) == ([t], [t])
    joined = walk(module, 20)
    ahead, _ = reached(module, joined.z[t + 1].square().sum())
    assert ahead == list(range(t + 1))


def test_the_start_gets_no_gradient_where_detached():
    module, start = chain(), torch.zeros(5, D, requires_grad=True)
    noise = torch.zeros(T, 5, D)
    path = module(start, start.sum(-1), noise, detach=True)
    (path.log_reverse.sum() + path.z[-1].sum()).backward()
    assert start.grad is None or not bool(start.grad.any())
    path = module(start, start.sum(-1), noise)
    path.z[-1].sum().backward()
    assert bool(start.grad.any())


def test_data_do_not_see_each_other():
    module = chain()
    draw = torch.Generator().manual_seed(3)
    start, noise = torch.randn(6, D, generator=draw), torch.randn(T, 6, D, generator=draw)
    whole = module(start, start.sum(-1), noise)
    for i in range(6):
        one = module(start[i], start[i].sum(), noise[:, i])
        assert one.log_forward.shape == (T,)
        assert torch.allclose(one.log_forward, whole.log_forward[:, i], atol=1e-5)
        assert torch.allclose(one.z[-1], whole.z[-1][i], atol=1e-5)


def test_contexts_of_samples_and_data():
    module = chain(context=2)
    context = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(0))
    path = walk(module, 7, 5, context=context)
    assert path.z[2].shape == (7, 5, D)
    assert path.log_reverse.shape == (T, 7, 5)
    other = context.clone()
    other[3, 1] += 1
    changed = (walk(module, 7, 5, context=other).z[-1] != path.z[-1]).any(-1)
    assert changed.nonzero().tolist() == [[3, 1]]


def test_an_untrained_chain_stays_near():
    path = walk(chain(), 500)
    assert float((path.z[1] - path.z[0]).detach().square().mean().sqrt()) < 0.5


def test_a_seed_gives_the_same_weights_and_leaves_the_global_state():
    before = torch.random.get_rng_state()
    a, b, c = chain(), chain(), chain(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(a.ahead.weights[0], b.ahead.weights[0])
    assert not torch.equal(a.ahead.weights[0], c.ahead.weights[0])
