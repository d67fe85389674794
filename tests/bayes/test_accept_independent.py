"""Independent chains against transition matrices, double loops and total variation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bnnkit.bayes.accept import independent

INF, NAN = math.inf, math.nan
P = np.array([1, 4, 2, 8, 3, 2]) / 20
Q = np.array([5, 3, 6, 1, 4, 1]) / 20
LOG_W = torch.from_numpy(np.log(P / Q))


def transition(log_w, q, grid=20_000):
    """Build the kernel from what `step` accepts: every pair, over an even grid of uniforms."""
    k = len(q)
    uniform = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    matrix, given = np.zeros((k, k)), np.zeros((k, k))
    for y in range(k):
        for x in range(k):
            state = independent.init(torch.full((grid,), y), log_w[y].expand(grid))
            moved, info = independent.step(
                state, torch.full((grid,), x), log_w[x].expand(grid), uniform
            )
            assert torch.equal(moved.position == x, info.accepted | torch.tensor(x == y))
            matrix[y, x] += q[x] * float(info.accepted.double().mean())
            given[y, x] = float(info.probability[0])
        matrix[y, y] += 1 - matrix[y].sum()
    return matrix, given


def test_kernel_leaves_p_as_it_is_and_is_reversible():
    matrix, given = transition(LOG_W, Q)
    exact = np.minimum(1, (P / Q)[None, :] / (P / Q)[:, None])
    np.testing.assert_allclose(given, exact, rtol=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(P @ matrix, P, atol=1e-4)
    flow = P[:, None] * matrix
    np.testing.assert_allclose(flow, flow.T, atol=1e-4)


def test_kernel_forgets_any_start():
    matrix, _ = transition(LOG_W, Q)
    np.testing.assert_allclose(np.linalg.matrix_power(matrix, 60), np.tile(P, (6, 1)), atol=1e-3)


def test_states_without_weight_are_left_and_states_of_no_number_never_entered():
    log_w = LOG_W.clone()
    log_w[0], log_w[1] = -INF, NAN
    matrix, _ = transition(log_w, Q)
    assert (matrix[2:, :2] == 0).all()
    assert (np.linalg.matrix_power(matrix, 100)[:, :2] < 1e-6).all()
    target = np.where(np.arange(6) < 2, 0, P)
    found = np.linalg.matrix_power(matrix, 200)[0]
    np.testing.assert_allclose(found, target / target.sum(), atol=1e-3)


def test_many_chains_from_one_place_end_in_p():
    draw, chains = torch.Generator().manual_seed(0), 40_000
    q = torch.from_numpy(Q)
    position = torch.zeros(chains, dtype=torch.int64)  # the least probable state
    state, moves = independent.init(position, LOG_W[position]), torch.zeros(chains)
    for _ in range(60):
        offered = torch.multinomial(q, chains, replacement=True, generator=draw)
        uniform = torch.rand(chains, generator=draw)
        state, info = independent.step(state, offered, LOG_W[offered], uniform)
        moves += info.accepted
    assert torch.equal(state.moves, moves.long())
    assert torch.equal(state.log_weight, LOG_W[state.position])
    counts = np.bincount(state.position.numpy(), minlength=6)
    assert stats.chisquare(counts, P * chains).pvalue > 0.01


def test_positions_of_any_shape_move_whole():
    before, after = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    state = independent.init(before, torch.tensor([0.0, 0.0, NAN]))
    weights = torch.tensor([1.0, NAN, -1.0])
    moved, info = independent.step(state, after, weights, torch.full((3,), 0.5))
    assert info.accepted.tolist() == [True, False, True]
    assert info.probability.tolist() == [1.0, 0.0, 1.0]
    assert moved.position.flatten(1).mean(1).tolist() == [1.0, 0.0, 1.0]
    assert moved.log_weight.tolist() == [1.0, 0.0, -1.0]
    assert moved.moves.tolist() == [1, 0, 1]
    assert state.moves.tolist() == [0, 0, 0]
    assert before.sum() == 0


def by_double_loop(current, proposed):
    """min{1, w(x)/w(y)} of each pair, by cases."""
    total = 0.0
    for y in current:
        y = -INF if math.isnan(y) else y
        for x in proposed:
            if math.isnan(x) or x == -INF < y:
                continue
            total += 1.0 if x >= y else math.exp(x - y)
    return total / (len(current) * len(proposed))


RNG = np.random.default_rng(0)
LISTS = {
    "plain": (RNG.normal(size=40), RNG.normal(size=57) * 2),
    "ties": (RNG.integers(-3, 3, 40).astype(float), RNG.integers(-3, 3, 31).astype(float)),
    "all equal": (np.zeros(5), np.zeros(7)),
    "extreme": (RNG.normal(size=20) * 1e4, RNG.normal(size=20) * 1e4),
    "very small": (RNG.normal(size=20) - 1e5, RNG.normal(size=20) - 1e5),
    "no numbers": (np.array([0.0, NAN, 1.0]), np.array([NAN, 0.5, NAN, -1.0])),
    "no number at all": (np.zeros(3), np.array([NAN, NAN])),
    "-inf proposals": (np.array([0.0, 1.0]), np.array([-INF, -INF, 0.5, -INF])),
    "-inf states": (np.array([-INF, 0.0]), np.array([-2.0, 0.5])),
    "-inf ties": (np.array([-INF, NAN, 0.0]), np.array([-INF, 0.5])),
    "+inf": (np.array([INF, 0.0, -INF]), np.array([INF, 0.5, -INF, NAN])),
}


@pytest.mark.parametrize("name", LISTS)
def test_acceptance_rate_is_the_mean_over_all_pairs(name):
    current, proposed = LISTS[name]
    found = independent.acceptance_rate(torch.from_numpy(current), torch.from_numpy(proposed))
    assert found == pytest.approx(by_double_loop(current, proposed), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LISTS)
def test_acceptance_rate_is_what_steps_do(name):
    """The same rule in both places, also for ties at infinity."""
    current, proposed = (torch.from_numpy(v) for v in LISTS[name])
    y, x = (v.flatten() for v in torch.meshgrid(current, proposed, indexing="ij"))
    state = independent.init(torch.zeros(len(y)), y)
    _, info = independent.step(state, torch.zeros(len(x)), x, torch.zeros(len(x)))
    expected = float(info.probability.mean())
    assert independent.acceptance_rate(current, proposed) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_acceptance_rate_is_one_less_total_variation(seed):
    """Theorem 1 of Neklyudov et al. (2018): exact, since the counts are those of p and q."""
    rng = np.random.default_rng(seed)
    k = 7
    p_counts, q_counts = rng.integers(0, 9, k), rng.integers(1, 9, k)
    p, q = p_counts / p_counts.sum(), q_counts / q_counts.sum()
    with np.errstate(divide="ignore"):
        log_w = np.log(p) - np.log(q)
    rate = independent.acceptance_rate(
        torch.from_numpy(np.repeat(log_w, p_counts)), torch.from_numpy(np.repeat(log_w, q_counts))
    )
    both = p[:, None] * q[None, :]
    distance = 0.5 * np.abs(both - both.T).sum()
    assert rate == pytest.approx(1 - distance, abs=1e-12)
    assert distance >= 0.5 * np.abs(p - q).sum() - 1e-12


def test_acceptance_rate_of_a_shift_of_scores_is_the_same():
    current, proposed = (torch.from_numpy(v) for v in LISTS["plain"])
    rate = independent.acceptance_rate(current, proposed)
    assert independent.acceptance_rate(current + 700, proposed + 700) == pytest.approx(rate)


def test_weight_ess_is_kish():
    w = np.random.default_rng(0).gamma(0.7, size=200)
    expected = w.sum() ** 2 / (w**2).sum()
    for shift in (0.0, 1e4, -1e4):
        found = independent.weight_ess(torch.from_numpy(np.log(w)) + shift)
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([3.0, 3.0, 3.0], 3.0),
        ([NAN, 3.0, 3.0], 2.0),
        ([-INF, 3.0], 1.0),
        ([1e4, 1e4, -1e4], 2.0),
        ([1e300, 0.0], 1.0),
        ([INF, 0.0], 1.0),
        ([INF, INF, 7.0, NAN], 2.0),
        ([-INF, -INF], 0.0),
        ([NAN, NAN], 0.0),
        ([-INF, NAN], 0.0),
    ],
)
def test_weight_ess_of_extreme_weights(weights, expected):
    found = independent.weight_ess(torch.tensor(weights, dtype=torch.float64))
    assert found == pytest.approx(expected, rel=1e-9)
