"""Chains and flows on energies: what they are trained for, and what comes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bnnkit.bayes.annealing import alphas
from bnnkit.errors import TrainingError
from bnnkit.methods.annealed import Chain, Energy, Flow, assess, fit, make_energy, survey
from bnnkit.methods.annealed.objectives import annealed_terms, objective
from bnnkit.methods.annealed.training import biased_noise
from bnnkit.spec.avo import FLOWS, METHODS, AvoToyConfig

QUICK = AvoToyConfig(steps=60, batch_size=64, transitions=4, hidden=16)
FOUR = make_energy("d")


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def wide(z):
    """Return log of 3 N(0, 1.2²): what N(0, 1) can be weighed to."""
    squares = (z / 1.2).square().sum(-1)
    return math.log(3) - 0.5 * squares - math.log(2 * math.pi * 1.44)


def samplers():
    yield "chain", Chain(1.5, 4, 8, source())
    for kind in FLOWS:
        flow = Flow(1.5, kind, 3)
        with torch.no_grad():  # away from the identity
            for p in flow.parameters():
                p.add_(0.08 * torch.randn(p.shape, generator=source(1)))
        yield kind, flow


@pytest.mark.parametrize(
    ("name", "sampler"), samplers(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_weights_average_to_the_constant(name, sampler):
    """E exp(log weight) = Z holds only where the density of the draws is right."""
    with torch.no_grad():
        draws = sampler.draws(100_000, wide, source(2))
    weight = draws.log_weight.double().exp()
    error = float(weight.std()) / math.sqrt(len(weight))
    assert float(weight.mean()) == pytest.approx(3, abs=5 * error + 0.02)
    assert float(draws.log_weight.mean()) < math.log(3)


def test_flows_leave_the_global_random_state():
    before = torch.random.get_rng_state()
    for kind in FLOWS:
        a, b = (Flow(1.0, kind, 5).draws(9, wide, source()).z for _ in range(2))
        assert torch.equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), before)


def terms_of(name, done, seed=0):
    chain = Chain(1.0, 4, 8, source())
    return objective(
        name, chain, FOUR.log_density, count=32, done=done, warm=0.5, alpha=alphas(4),
        generator=source(seed),
    )  # fmt: skip


def test_objectives_are_per_datum():
    for name in METHODS[:5]:
        assert terms_of(name, 0.2).shape == (32,)
    chain = Chain(1.0, 4, 8, source())
    terms = annealed_terms(chain, FOUR.log_density, 32, alphas(4), source())
    assert terms.shape == (4, 32)
    # twice the data, half of them the same draws: a datum's term is what it was
    path = chain.walk(32, source(), detach=True)
    z = torch.stack(path.z[1:])
    for i in (0, 17):
        for t, alpha in enumerate(alphas(4)):
            target = alpha * FOUR.log_density(z[t, i]) + (1 - alpha) * chain.log_start(z[t, i])
            one = target + path.log_reverse[t, i] - path.log_forward[t, i]
            assert float(terms[t, i]) == pytest.approx(float(one), abs=1e-4)


def test_after_the_warm_up_it_is_the_bound():
    bound = terms_of("elbo", 0.0)
    for name in ("alpha", "beta", "avo+elbo"):
        assert torch.allclose(terms_of(name, 0.7), bound)
        assert not torch.allclose(terms_of(name, 0.0), bound)
    assert torch.allclose(terms_of("avo+elbo", 0.0), terms_of("avo", 0.0))


def test_biased_noise_has_a_mean_that_fades():
    draw = source()
    early, late = (
        torch.stack([biased_noise(2.0, done, draw) for _ in range(4000)]) for done in (0.25, 0.6)
    )
    assert early.mean(0).tolist() == pytest.approx([1, 0], abs=0.08)
    assert late.mean(0).tolist() == pytest.approx([0, 0], abs=0.08)
    assert early.std(0).tolist() == pytest.approx([1, 1], abs=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_training_tightens_the_bound(method):
    truth = survey(FOUR, 80)
    few = [
        assess(fit(FOUR, method, replace(QUICK, steps=n)).sampler, FOUR, truth, 4000, source())
        for n in (1, 60)
    ]
    assert few[1].gap < few[0].gap
    assert few[1].gap > -3 * few[1].error
    assert sum(few[1].shares) == pytest.approx(1)


def test_a_seed_gives_the_same_training():
    truth = survey(FOUR, 60)
    a, b, c = (
        assess(fit(FOUR, "avo", replace(QUICK, seed=s)).sampler, FOUR, truth, 500, source())
        for s in (0, 0, 1)
    )
    assert a.bound == b.bound
    assert a.bound != c.bound


def test_an_energy_without_numbers_is_told():
    nowhere = Energy("nowhere", lambda z: z.sum(-1) * math.nan, 2.0)
    with pytest.raises(TrainingError, match=r"nowhere.*at step 1"):
        fit(nowhere, "elbo", QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_annealing_covers_the_four_modes(spacing):
    config = AvoToyConfig(spacing=spacing)
    energy = make_energy("d", spacing)
    truth = survey(energy)
    found = {
        m: assess(fit(energy, m, config).sampler, energy, truth, 20_000, source())
        for m in ("elbo", "avo")
    }
    assert found["avo"].visited == 4
    assert found["avo"].tv < (0.1 if spacing == 1 else 0.2)
    assert found["avo"].tv < found["elbo"].tv
