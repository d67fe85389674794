"""What each loss is smallest at, on tables of logits where p and q are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bnnkit.methods.mh.objectives import log_d, pair_loss, single_loss

P = torch.tensor([1, 2, 4, 5])  # counts of y ~ p
Q = torch.tensor([4, 5, 2, 1])  # counts of x ~ q
JOINT = torch.tensor([[3, 2, 1], [1, 6, 4], [5, 2, 9]])
"""Counts of (y, x): p(y) q(x | y), first the real state."""


def descend(loss, *shape):
    """Minimise over a table of logits, by L-BFGS in float64."""
    table = torch.zeros(*shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [table], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimiser.zero_grad()
        value = loss(table)
        value.backward()
        return value

    optimiser.step(closure)
    return table.detach()


def fit_table(kind, floor, p=P, q=Q):
    rows, columns = (torch.repeat_interleave(torch.arange(len(c)), c) for c in (p, q))
    return descend(lambda t: single_loss(t[rows], t[columns], kind, floor), len(p))


def fit_pair_table(kind, floor):
    k = len(JOINT)
    y, x = (torch.repeat_interleave(v.flatten(), JOINT.flatten()) for v in
            torch.meshgrid(torch.arange(k), torch.arange(k), indexing="ij"))  # fmt: skip
    return descend(lambda t: pair_loss(t[y, x], t[x, y], kind, floor), k, k)


@pytest.mark.parametrize("kind", ["bce", "mce", "ub"])
def test_independent_minimiser_is_the_density_ratio(kind):
    """s(x) - s(y) = log p(x) q(y) / p(y) q(x): larger where p is, so real states are kept."""
    floor = 0.01 if kind == "ub" else 0.0
    table = fit_table(kind, floor)
    score = log_d(table, floor) if kind == "ub" else table
    exact = (P / P.sum()).double().log() - (Q / Q.sum()).double().log()
    torch.testing.assert_close(score - score[0], exact - exact[0], atol=2e-4, rtol=0)
    if kind == "bce":  # the logit itself, not up to a constant
        torch.testing.assert_close(score, exact, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["bce", "mce", "ub"])
def test_pair_minimiser_is_the_acceptance_ratio(kind):
    """log d(x, y) / d(y, x) = log p(x) q(y | x) / p(y) q(x | y)."""
    floor = 0.01 if kind == "ub" else 0.0
    table = log_d(fit_pair_table(kind, floor), floor)
    log_joint = JOINT.double().log()
    a = table.T - table  # at [y, x]: log d(x, y) - log d(y, x)
    torch.testing.assert_close(a, log_joint.T - log_joint, atol=2e-4, rtol=0)


def test_pair_cross_entropy_of_the_exact_discriminator():
    """d(y, x) = p(y) q(x|y) / (p(y) q(x|y) + p(x) q(y|x)), the real state first."""
    joint = JOINT.double()
    found = torch.sigmoid(fit_pair_table("bce", 0.0))
    torch.testing.assert_close(found, joint / (joint + joint.T), atol=1e-5, rtol=0)


@pytest.mark.parametrize("floor", [0.2, 0.5, 0.8])
def test_upper_bound_of_pairs_clips_at_the_edges(floor):
    """d in [b, 1] can say no ratio beyond 1/b: there the convex loss is least at the edge."""
    table = log_d(fit_pair_table("ub", floor), floor)
    log_joint = JOINT.double().log()
    edge = -math.log(floor)
    exact = (log_joint.T - log_joint).clamp(-edge, edge)
    torch.testing.assert_close(table.T - table, exact, atol=5e-3, rtol=0)


@pytest.mark.parametrize("floor", [0.05, 0.15, 0.4])
def test_upper_bound_of_independent_proposals_solves_the_boxed_problem(floor):
    """Against a bounded convex minimiser that never sees a logit."""
    p, q = (P / P.sum()).double().numpy(), (Q / Q.sum()).double().numpy()

    def value(log_d_):
        return q @ log_d_ - p @ log_d_ + (q @ np.exp(log_d_)) * (p @ np.exp(-log_d_))

    box = [(math.log(floor), 0.0)] * len(p)
    best = minimize(
        value, np.full(len(p), math.log(floor) / 2), bounds=box, method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    found = log_d(fit_table("ub", floor), floor).numpy()
    assert value(found) == pytest.approx(best.fun, abs=1e-5)
    np.testing.assert_allclose(found - found[0], best.x - best.x[0], atol=2e-2)
    span = float(np.ptp(np.log(p / q)))
    if span > -math.log(floor):  # the exact ratio does not fit: both edges are used
        assert found.max() == pytest.approx(0, abs=2e-2)
        assert found.min() == pytest.approx(math.log(floor), abs=2e-2)


def test_ratio_of_one_costs_what_knowing_nothing_costs():
    zeros = torch.zeros(5)
    for floor in (0.0, 0.1):
        assert float(single_loss(zeros, zeros, "ub", floor)) == pytest.approx(1)
        assert float(pair_loss(zeros, zeros, "ub", floor)) == pytest.approx(1)
    assert float(single_loss(zeros, zeros, "bce", 0)) == pytest.approx(2 * math.log(2))
    assert float(single_loss(zeros, zeros, "mce", 0)) == pytest.approx(math.log(2))
    assert float(pair_loss(zeros, zeros, "bce", 0)) == pytest.approx(2 * math.log(2))
    assert float(pair_loss(zeros, zeros, "mce", 0)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", ["bce", "mce", "ub"])
def test_losses_against_loops(kind):
    draw = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, generator=draw, dtype=torch.float64) for n in (4, 7))
    floor = 0.1 if kind == "ub" else 0.0

    def sigma(v):
        return 1 / (1 + math.exp(-v))

    def of(a):
        return math.log1p(math.exp(a)) if kind == "mce" else a + math.exp(a)

    def d(v):
        return floor + (1 - floor) * sigma(v)

    if kind == "bce":
        mine = -sum(math.log(sigma(v)) for v in real) / 4
        mine -= sum(math.log(1 - sigma(v)) for v in fake) / 7
    elif kind == "mce":
        mine = sum(of(float(x - y)) for y in real for x in fake) / 28
    else:
        mine = sum(of(math.log(d(x) / d(y))) for y in real for x in fake) / 28
    assert float(single_loss(real, fake, kind, floor)) == pytest.approx(mine)

    backward = fake[:4]
    if kind == "bce":
        pairs = -sum(math.log(sigma(v)) for v in real) - sum(
            math.log(1 - sigma(v)) for v in backward
        )
    else:
        pairs = sum(of(math.log(d(b) / d(f))) for f, b in zip(real, backward, strict=True))
    assert float(pair_loss(real, backward, kind, floor)) == pytest.approx(pairs / 4)


@pytest.mark.parametrize("floor", [0.0, 1e-6, 0.01, 0.5])
def test_log_d_lies_between_its_floor_and_zero(floor):
    logit = torch.tensor([-1e4, -80.0, -5.0, 0.0, 5.0, 80.0, 1e4], dtype=torch.float64)
    found = log_d(logit, floor)
    d = floor + (1 - floor) * torch.sigmoid(logit)
    torch.testing.assert_close(found[2:].exp(), d[2:], rtol=1e-12, atol=0)
    assert (found.diff() >= 0).all()
    assert float(found.max()) <= 1e-15
    if floor:
        assert float(found.min()) == pytest.approx(math.log(floor))
    assert found.isfinite().all()


@pytest.mark.parametrize("kind", ["bce", "mce", "ub"])
def test_gradients_are_finite_at_extreme_logits(kind):
    real = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    fake = torch.tensor([200.0, 1.0, -200.0], requires_grad=True)
    single_loss(real, fake, kind, 0.01).backward()
    assert real.grad.isfinite().all()
    assert fake.grad.isfinite().all()
