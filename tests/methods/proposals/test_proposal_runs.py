"""Walks, training and chains on densities that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats
from scipy import stats

from bnnkit.bayes.pareto import pareto_shape
from bnnkit.errors import TrainingError, UsageError
from bnnkit.methods.proposals import (
    Density,
    Target,
    Walks,
    assess,
    build_proposal,
    logistic_regression,
    run_chains,
    six_gaussians,
    train,
    walk,
)
from bnnkit.methods.proposals.families import Whitening, gaussian
from bnnkit.methods.proposals.training import _Chains
from bnnkit.spec.proposal import OBJECTIVES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(dim=1):
    return Target("normal", dim, lambda x: -0.5 * x.square().sum(1))


def test_six_gaussians_is_a_density_with_its_own_moments():
    target = six_gaussians()
    side = torch.linspace(-8, 8, 641)
    grid = torch.cartesian_prod(side, side)
    p = target.log_prob(grid).double().exp() * (side[1] - side[0]) ** 2
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)
    sd = (p[:, None] * grid.double().square()).sum(0).sqrt()
    torch.testing.assert_close(sd.float(), target.reference.sd, atol=1e-3, rtol=0)


def test_walks_reach_every_mode_and_follow_the_density():
    density = Density(six_gaussians())
    walks = walk(density, 200, 300, 10.0, generator())
    nearest = torch.cdist(walks.ends, density.target.modes.centres)
    assert set(nearest.argmin(1).tolist()) == set(range(6))
    assert float(nearest.amin(1).mean()) == pytest.approx(0.5 * math.sqrt(math.pi / 2), abs=0.1)
    torch.testing.assert_close(density.values(walks.ends), walks.log_prob, atol=1e-4, rtol=0)


def test_walks_draw_from_the_density():
    walks = walk(Density(normal()), 400, 400, 10.0, generator())
    assert stats.kstest(walks.ends[:, 0].numpy(), "norm").pvalue > 1e-3


def test_walks_start_inside_a_small_support():
    inside = Target(
        "box", 2, lambda x: torch.where(x.abs().amax(1) < 1, 0.0, -torch.inf) + 0 * x[:, 0]
    )
    walks = walk(Density(inside), 50, 20, 10.0, generator())
    assert float(walks.ends.abs().max()) < 1


def test_chains_draw_from_the_target_whatever_proposes():
    density = Density(normal())
    proposal = gaussian(Whitening(torch.tensor([0.7]), torch.tensor([[1.6]])), diagonal=True)
    starts = walk(density, 50, 100, 5.0, generator())
    chains = run_chains(proposal, density, starts, draws=400, warmup=20, generator=generator(1))
    assert chains.samples.shape == (50, 400, 1)
    thinned = chains.samples[:, ::20].flatten().numpy()
    assert stats.kstest(thinned, "norm").pvalue > 1e-3
    torch.testing.assert_close(density.values(chains.samples), chains.log_prob, atol=1e-5, rtol=0)
    # 1 - TV of p(y) q(x) and p(x) q(y), by quadrature
    t = np.linspace(-12, 12, 1201)
    w = stats.norm.pdf(t) / stats.norm.pdf(t, 0.7, 1.6)
    pair = np.minimum(1, w[None, :] / w[:, None])
    weight = stats.norm.pdf(t)[:, None] * stats.norm.pdf(t, 0.7, 1.6)[None, :]
    expected = (pair * weight).sum() * (t[1] - t[0]) ** 2
    assert float(chains.acceptance.mean()) == pytest.approx(expected, abs=0.01)


def test_blocks_do_not_change_a_chain(monkeypatch):
    density, made = Density(normal(2)), []
    proposal = gaussian(Whitening(torch.zeros(2), 2 * torch.eye(2)), diagonal=True)
    starts = walk(density, 8, 50, 5.0, generator())
    for block in (1 << 13, 64):
        monkeypatch.setattr("bnnkit.methods.proposals.sampling._BLOCK", block)
        run = run_chains(proposal, density, starts, draws=100, warmup=7, generator=generator(2))
        assert run.samples.shape == (8, 100, 2)
        repeats = (run.samples[:, 1:] == run.samples[:, :-1]).all(-1).double().mean()
        made.append(1 - float(repeats))
        assert made[-1] == pytest.approx(float(run.acceptance.mean()), abs=0.05)


def test_training_learns_a_gaussian():
    true = Target(
        "gaussian", 2, lambda x: -0.5 * ((x - torch.tensor([1.0, -2.0])) / 0.3).square().sum(1)
    )
    density = Density(true)
    starts = walk(density, 64, 100, 5.0, generator())
    for name in OBJECTIVES:
        proposal = gaussian(Whitening(torch.zeros(2), torch.eye(2)), diagonal=True)
        done = train(
            proposal, density, name, starts,
            steps=400, batch_size=64, lr=0.05, generator=generator(),
        )  # fmt: skip
        x = proposal.sample(4000, generator())
        torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0]), atol=0.06, rtol=0)
        torch.testing.assert_close(x.std(0), torch.full((2,), 0.3), atol=0.06, rtol=0)
        assert done.curve[-1]["step"] == 400
        assert ("acceptance" in done.curve[-1]) == (name != "vi")


def test_steps_nearby_keep_the_law_and_lead_out_of_tails():
    """Under a proposal much too narrow, states at 4 sd would be left once in a million steps."""
    density = Density(normal(2))
    x = torch.randn(4000, 2, generator=generator())
    far = torch.full((400, 2), 4.0)
    for begun, count in ((x, 40), (far, 100)):
        starts = Walks(begun, density.values(begun), begun)
        chains = _Chains(density, starts, torch.eye(2), generator(1))
        for _ in range(count):
            chains.move()
        assert float((chains.x == begun).all(1).double().mean()) < 0.01
        torch.testing.assert_close(chains.log_p, density.values(chains.x))
        for i in range(2):
            assert stats.kstest(chains.x[:, i].numpy(), "norm").pvalue > 1e-3


def test_minibatches_are_unbiased():
    x = torch.randn(60, 2, generator=generator())
    target = logistic_regression("t", x, (x[:, 0] > 0).long())
    w = torch.randn(5, 3, generator=generator(1), requires_grad=True)
    whole = Density(target).differentiable(w, generator())
    torch.testing.assert_close(
        target.minibatches.log_prior(w) + target.minibatches.log_likelihood(w, torch.arange(60)),
        whole,
    )
    some, g = Density(target, 10), generator(2)
    with torch.no_grad():
        mean = torch.stack([some.differentiable(w.detach(), g) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, whole.detach(), atol=1.0, rtol=0.03)


def test_logistic_regression_is_the_textbook_formula():
    x = torch.randn(30, 2, generator=generator()) * 5 + 1
    y = (torch.rand(30, generator=generator()) > 0.4).long()
    table = torch.cat([x, torch.full((30, 1), 3.0)], 1)
    target = logistic_regression("t", table, y)
    assert target.dim == 3
    assert "1 constant" in target.notes[0]
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    w = torch.tensor([[0.3, -0.5, 1.1]]).double()
    eta = w[0, 0] + z @ w[0, 1:]
    expected = torch.distributions.Bernoulli(logits=eta).log_prob(y.double()).sum()
    expected = expected + torch.distributions.Normal(0.0, 1.0).log_prob(w).sum()
    assert float(target.log_prob(w.float())) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("shape", [1.0, 0.3, 0.0])
def test_the_tail_of_weights_as_arviz_sees_it(shape):
    u = np.random.default_rng(0).uniform(size=5000)
    log_weight = -shape * np.log(u) if shape else np.log(u)
    _, expected = array_stats.psislw(-log_weight)
    found = pareto_shape(torch.from_numpy(log_weight))
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_tails_without_a_shape():
    assert pareto_shape(torch.zeros(1000)) == -math.inf
    assert math.isnan(pareto_shape(torch.zeros(10)))
    assert pareto_shape(torch.tensor([0.0] + [-math.inf] * 999)) == math.inf


def judged(proposal, target, draws=300):
    density = Density(target)
    starts = walk(density, 40, 300, 10.0, generator(5))
    run = run_chains(proposal, density, starts, draws=draws, warmup=10, generator=generator(6))
    return assess(run, seconds=1.0, modes=target.modes, reference=target.reference, checked="x")


def test_a_proposal_on_one_mode_is_not_called_good():
    target = six_gaussians()
    one = gaussian(Whitening(target.modes.centres[0], 0.5 * torch.eye(2)), diagonal=True)
    found = judged(one, target)
    assert found.sampling["acceptance_moved"] > 0.95
    assert not found.good
    assert found.modes["visited"] == 1  # although chains stand in all six
    assert found.modes["tv"] == pytest.approx(5 / 6, abs=1e-6)
    assert found.sampling["rhat"] > 1.5
    assert "although 100% of proposals are accepted" in found.sentences[0]
    assert "misses 5 of 6 modes" in found.sentences[0]


def test_missed_modes_are_seen_of_a_target_that_names_none():
    target = six_gaussians()
    nameless = Target("unknown", 2, target.log_prob)
    one = gaussian(Whitening(target.modes.centres[0], 0.5 * torch.eye(2)), diagonal=True)
    found = judged(one, nameless)
    assert not found.good
    assert found.modes == {}
    assert "never left their start" in found.sentences[0]
    assert "A mode that no walk came upon stays unknown." in found.sentences[1]


def test_a_proposal_on_all_modes_is_good():
    target = six_gaussians()
    walks = walk(Density(target), 200, 300, 10.0, generator())
    proposal = build_proposal("mixture", walks.path, 8, generator())
    train(
        proposal, Density(target), "kl", walks,
        steps=200, batch_size=128, lr=0.01, generator=generator(),
    )  # fmt: skip
    found = judged(proposal, target, 1000)
    assert found.good, found.sentences
    assert found.modes["tv"] < 0.02
    assert found.sampling["acceptance"].value > 0.9
    assert found.bias["largest"] < 0.05


def test_a_wrong_mean_is_told():
    density = Density(normal())
    proposal = gaussian(Whitening(torch.zeros(1), torch.eye(1)), diagonal=True)
    starts = walk(density, 40, 50, 5.0, generator())
    run = run_chains(proposal, density, starts, draws=200, warmup=0, generator=generator())
    other = six_gaussians().reference.__class__(torch.ones(1), torch.ones(1), "elsewhere")
    found = assess(run, seconds=1.0, modes=None, reference=other, checked="x")
    assert not found.good
    assert found.bias["largest"] == pytest.approx(1, abs=0.1)


# --- what a density may not answer ----------------------------------------------------------


def ask(function, dim=2):
    return Density(Target("t", dim, function)).values(torch.zeros(5, dim))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: -x.square(), r"shape \[5, 2\]; shape \[5\] is expected"),
        (lambda x: -x.square().sum(), r"shape \[\]"),
        (lambda x: 0.0, "'float'"),
        (lambda x: x[:, 0].long(), "torch.int64"),
        (lambda x: x[:, 0] + torch.inf, "infinite log density"),
    ],
)
def test_answers_that_are_no_density(function, words):
    with pytest.raises(UsageError, match=words):
        ask(function)


def test_nan_is_counted_and_kept():
    density = Density(Target("t", 1, lambda x: torch.where(x[:, 0] > 0, x[:, 0], torch.nan)))
    found = density.values(torch.tensor([[1.0], [-1.0], [-2.0]]))
    assert found.isnan().tolist() == [False, True, True]
    assert (density.asked, density.undefined) == (3, 2)


def test_a_density_without_a_gradient():
    numpy = Target("t", 2, lambda x: torch.from_numpy(-(x.detach().numpy() ** 2).sum(1)))
    with pytest.raises(UsageError, match="without a gradient"):
        walk(Density(numpy), 4, 3, 1.0, generator())


def test_a_density_that_is_nowhere():
    nowhere = Target("t", 2, lambda x: x[:, 0] * torch.nan)
    with pytest.raises(UsageError, match="0 of 80 points"):
        walk(Density(nowhere), 4, 3, 1.0, generator())


def test_minibatches_of_what_is_no_sum():
    with pytest.raises(UsageError, match="no sum over data"):
        Density(normal(), 10)


def test_training_on_a_small_support_is_refused():
    box = Target("box", 2, lambda x: torch.where(x.abs().amax(1) < 0.1, 0 * x[:, 0], -torch.inf))
    density = Density(box)
    starts = Walks(torch.zeros(10, 2), torch.zeros(10).double(), torch.zeros(10, 2))
    proposal = gaussian(Whitening(torch.zeros(2), torch.eye(2)), diagonal=True)
    with pytest.raises(TrainingError, match="outside the support"):
        train(
            proposal, density, "vi", starts,
            steps=100, batch_size=32, lr=0.01, generator=generator(),
        )  # fmt: skip
