"""Energies in the plane and their landscapes, against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from bnnkit.errors import UsageError
from bnnkit.methods.annealed import ENERGIES, Energy, make_energy, survey

ROOT = math.sqrt(2 * math.pi)


@pytest.fixture(scope="module")
def truths():
    return {name: survey(make_energy(name)) for name in ENERGIES}


def ring(radial):
    """Integrate a function of the radius and the angle over the plane."""

    def around(r):
        return r * quad(lambda angle: radial(r, angle), 0, 2 * math.pi)[0]

    return quad(around, 0, 14, limit=200)[0]


def test_constants(truths):
    def arcs(r, angle):
        x = r * math.cos(angle)
        sides = math.exp(-0.5 * ((x - 2) / 0.6) ** 2) + math.exp(-0.5 * ((x + 2) / 0.6) ** 2)
        return sides * math.exp(-0.5 * ((r - 2) / 0.4) ** 2)

    exact = {
        "a": math.log(ring(arcs)),
        "c": math.log(math.sqrt(2) * ring(lambda r, _: math.exp(-((2 - r) ** 2)))),
        "d": 0.0,
        "e": math.log(0.4 * ROOT * math.sqrt(10 * math.pi)),
        "f": math.log(2 * 0.35 * ROOT * math.sqrt(20 * math.pi)),
    }
    for name, value in exact.items():
        assert truths[name].log_z == pytest.approx(value, abs=1e-4), name


def test_modes_and_weights(truths):
    assert {name: len(t.weights) for name, t in truths.items()} == {
        "a": 2, "b": 3, "c": 1, "d": 4, "e": 1, "f": 1,
    }  # fmt: skip
    assert truths["a"].weights.tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert truths["d"].weights.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-3)
    for truth in truths.values():
        side = 2 * truth.edge / len(truth.density)
        assert float(truth.density.sum()) * side**2 == pytest.approx(1)
        assert float(truth.weights.sum()) == pytest.approx(1)


def test_draws_of_the_mixture_itself(truths):
    """Exact samples have the weights, and the histogram is the density."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    weights = torch.tensor([0.1, 0.3, 0.4, 0.2])
    part = torch.multinomial(weights, 200_000, replacement=True, generator=draw)
    z = centres[part] + math.sqrt(0.2) * torch.randn(200_000, 2, generator=draw)
    truth = truths["d"]
    shares = truth.shares(z)
    assert truth.tv(shares) < 0.005
    assert truth.visited(shares) == 4
    assert truth.visited(truth.shares(z[part == 2])) == 1
    blocks = [
        torch.nn.functional.avg_pool2d(t[None], 20) for t in (truth.histogram(z), truth.density)
    ]
    assert float((blocks[0] - blocks[1]).abs().max()) < 0.01


def test_twice_as_far_are_the_same_modes():
    truth = survey(make_energy("D", 2.0))
    assert truth.log_z == pytest.approx(0, abs=1e-6)
    assert truth.weights.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-4)
    z = torch.tensor([[0.0, 4.0], [4.0, 0.0], [0.0, -4.0], [-4.0, 0.0], [90.0, 0.0]])
    assert truth.shares(z).tolist() == pytest.approx([0.2, 0.4, 0.2, 0.2])
    assert float(truth.histogram(z).sum() * (2 * truth.edge / 240) ** 2) == pytest.approx(0.8)


def test_bumps_that_do_not_stand_out_are_one_mode():
    def near(gap):
        def log_density(z):
            x, y = z.unbind(-1)
            return (
                torch.logaddexp(-0.5 * (x - gap).square(), -0.5 * (x + gap).square()) - y.square()
            )

        return len(survey(Energy("near", log_density, 8.0), 100).weights)

    assert near(1.2) == 1  # two tops, 0.03 nats above the saddle
    assert near(3.0) == 2


@pytest.mark.parametrize("name", ENERGIES)
def test_gradients_are_finite_everywhere(name):
    z = torch.cat([torch.zeros(1, 2), 6 * torch.randn(200, 2)]).requires_grad_()
    log_f = make_energy(name).log_density(z)
    (gradient,) = torch.autograd.grad(log_f.sum(), z)
    assert log_f.shape == (201,)
    assert bool(gradient.isfinite().all())


def test_names_that_are_none():
    with pytest.raises(UsageError, match="'g'"):
        make_energy("g")
    with pytest.raises(UsageError, match="only energy d"):
        make_energy("a", 2.0)
