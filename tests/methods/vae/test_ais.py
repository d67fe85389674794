"""Annealed importance sampling against the known evidence of a linear-Gaussian model."""

import math

import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal
from bnnkit.methods.vae.ais import annealed_importance, sigmoid_schedule


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_it_finds_the_evidence(linear_gaussian, start):
    world = linear_gaussian(n=4)
    q = None
    if start == "posterior":
        q = Diagonal(world.mean + 0.2, torch.full((4, 4), -0.5, dtype=torch.float64))
    found = annealed_importance(
        world.model,
        world.x,
        generator=torch.Generator().manual_seed(0),
        start=q,
        chains=64,
        temperatures=150,
        leapfrog=5,
    )
    assert ((found.log_p - world.evidence()).abs() < 5 * found.se).all()
    assert (found.se < 0.5).all()
    assert (found.acceptance > 0.4).all()


def test_one_temperature_is_importance_sampling_from_the_start(linear_gaussian):
    world = linear_gaussian(n=3)
    q = Diagonal(world.mean, torch.full((3, 4), -1.0, dtype=torch.float64))
    found = annealed_importance(
        world.model,
        world.x,
        generator=torch.Generator().manual_seed(0),
        start=q,
        chains=5000,
        temperatures=1,
        pilot_chains=1,
    )
    z, log_q = q.sample(torch.randn(5000, 3, 4, generator=torch.Generator().manual_seed(1)))
    direct = (world.model.log_joint(world.x, z) - log_q).logsumexp(0) - math.log(5000)
    assert found.log_p == pytest.approx(direct, abs=0.5)


def test_the_schedule_rises_from_zero_to_one():
    betas = sigmoid_schedule(50)
    assert len(betas) == 51
    assert float(betas[0]) == 0
    assert float(betas[-1]) == 1
    assert (betas.diff() > 0).all()
