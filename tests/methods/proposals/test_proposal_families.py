"""Every family: densities are those of the draws, and integrate to one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from bnnkit.errors import UsageError
from bnnkit.methods.proposals.build import build_proposal, empty_proposal
from bnnkit.methods.proposals.families import GaussianMixture, Whitening
from bnnkit.spec.proposal import FAMILIES

DIM = 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=FAMILIES)
def proposal(request):
    """Return a proposal whose parameters are no round numbers."""
    if request.param == "flow":
        pytest.importorskip("zuko")
    points = torch.randn(500, DIM, generator=generator()) @ torch.tensor([[2.0, 0.7], [0, 0.5]])
    found = build_proposal(request.param, points + 1, 3, generator())
    moved = generator(1)
    with torch.no_grad():
        for parameter in found.parameters():
            # a flow of wide networks turns into spikes that no grid resolves
            scale = 0.05 if request.param == "flow" else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=moved))
    return found


def test_density_integrates_to_one(proposal):
    side = torch.linspace(-25, 25, 501)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = proposal.log_prob(grid).double().exp().sum() * (side[1] - side[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=5e-3)


def test_draws_know_their_density_and_weigh_one(proposal):
    x, log_q, log_weight = proposal.draws(64, generator(2))
    assert x.shape[1] == DIM
    assert float(torch.logsumexp(log_weight.detach(), 0)) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(log_q, proposal.log_prob(x), atol=2e-4, rtol=1e-4)
    (log_q * log_weight.exp()).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in proposal.parameters() if p.grad is not None)


def test_samples_and_weighted_draws_have_the_same_moments(proposal):
    with torch.no_grad():
        x = proposal.sample(40_000, generator(3))
        y, _, log_weight = proposal.draws(40_000, generator(4))
    mean = (y * log_weight.exp()[:, None]).sum(0)
    torch.testing.assert_close(x.mean(0), mean, atol=0.06, rtol=0)
    # E_q[1] by the density itself: draws of q weigh p/q = 1 on average for p = another family
    other = MultivariateNormal(x.mean(0), x.T.cov() / 2)
    with torch.no_grad():
        ratio = (other.log_prob(x) - proposal.log_prob(x)).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)


def test_a_mixture_is_torchs_own():
    whitening = Whitening(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.0], [0.5, 0.3]]))
    means = torch.randn(3, 2, generator=generator())
    factors = torch.eye(2).repeat(3, 1, 1) + torch.tensor([[0.0, 0], [0.4, 0]])
    logits = torch.tensor([0.2, -1.0, 0.5])
    ours = GaussianMixture(whitening, means, factors, logits)
    theirs = MixtureSameFamily(
        Categorical(logits=logits),
        MultivariateNormal(
            means @ whitening.scale.T + whitening.centre, scale_tril=whitening.scale @ factors
        ),
    )
    x = torch.randn(20, 2, generator=generator(1)) * 3
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), atol=1e-4, rtol=1e-4)


def test_a_diagonal_proposal_stays_diagonal():
    points = torch.randn(500, DIM, generator=generator()) @ torch.tensor([[2.0, 1.5], [0, 0.5]])
    found = build_proposal("diagonal", points, 1, generator())
    x = found.sample(20_000, generator())
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 0.03


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_fit_an_empty_proposal(family):
    if family == "flow":
        pytest.importorskip("zuko")
    points = torch.randn(500, 3, generator=generator())
    found = build_proposal(family, points, 4, generator())
    other = empty_proposal(family, 3, 4)
    other.load_state_dict(found.state_dict())
    with torch.no_grad():
        x = found.sample(50, generator())
        torch.testing.assert_close(other.log_prob(x), found.log_prob(x))


def test_a_flow_keeps_torchs_random_state_and_follows_its_seed():
    pytest.importorskip("zuko")
    points = torch.randn(100, 2, generator=generator())
    before = torch.random.get_rng_state()
    first, second = (build_proposal("flow", points, 1, generator()) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        assert torch.equal(first.log_prob(points), second.log_prob(points))


def test_a_flow_of_one_coordinate_is_refused():
    with pytest.raises(UsageError, match="one coordinate"):
        build_proposal("flow", torch.randn(50, 1), 1, generator())


def test_a_flow_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(UsageError, match=r"bnnkit\[flows\]"):
        build_proposal("flow", torch.randn(50, 2), 1, generator())


def test_points_on_a_line_give_a_proposal():
    points = torch.randn(300, 1, generator=generator()) * torch.tensor([[1.0, 0.0, 2.0]])
    for family in ("diagonal", "full-rank", "mixture"):
        found = build_proposal(family, points, 3, generator())
        with torch.no_grad():
            assert bool(found.log_prob(found.sample(10, generator())).isfinite().all())
    assert math.isfinite(float(found.log_prob(points[:1]).detach()))
