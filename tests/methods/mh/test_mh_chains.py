"""Chains over a bank against exact laws on a small discrete space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bnnkit.errors import TrainingError
from bnnkit.methods.mh.chains import bank_chains

P = np.array([1, 4, 2, 8, 3, 2]) / 20
Q_COUNTS = np.array([5, 3, 6, 1, 4, 1])
Q = Q_COUNTS / 20
LOG_W = np.log(P / Q)
BANK = torch.from_numpy(np.repeat(np.arange(6), 10 * Q_COUNTS))  # exactly q
STARTS = torch.from_numpy(np.repeat(np.arange(6), np.round(20 * P).astype(int)))  # exactly p


def walk(chains, length, seed=0, scores=None, **more):
    draw = torch.Generator().manual_seed(seed)
    log_w = torch.from_numpy(LOG_W)
    scores = log_w[BANK] if scores is None else scores
    return bank_chains(scores, log_w[STARTS], chains, length, draw, **more)


def exact_law(length):
    """Return the law of moved chains, and the share that has not moved, by recursion."""
    accept = np.minimum(1, np.exp(LOG_W[None, :] - LOG_W[:, None]))
    go = Q[None, :] * accept
    stay = 1 - go.sum(1)
    kernel = go + np.diag(stay)
    still, moved = P.copy(), np.zeros(6)
    for _ in range(length):
        moved, still = moved @ kernel + still @ go, still * stay
    return moved / moved.sum(), still.sum()


def states(rows):
    return np.bincount(BANK[rows].numpy(), minlength=6)


@pytest.mark.parametrize("seed", range(3))
def test_long_chains_give_p(seed):
    found = walk(20_000, 80, seed)
    assert found.rows.min() >= 0
    assert stats.chisquare(states(found.rows), 20_000 * P).pvalue > 0.003


@pytest.mark.parametrize("length", [1, 2, 5])
def test_short_chains_give_the_law_of_chains_that_moved(length):
    """With restarts the answer is the law given a move; of 40,000 chains, chi-square."""
    law, still = exact_law(length)
    found = walk(40_000, length)
    assert stats.chisquare(states(found.rows), 40_000 * law).pvalue > 0.003
    error = math.sqrt(still * (1 - still) / 40_000)
    assert found.unmoved_share == pytest.approx(still, abs=4 * error)
    assert found.restarts >= round(40_000 * found.unmoved_share)
    expected = 40_000 * still / (1 - still)  # geometric
    assert found.restarts == pytest.approx(expected, rel=0.05)


def test_rows_of_one_state_are_equally_likely():
    counts = np.bincount(walk(40_000, 60).rows.numpy(), minlength=len(BANK))
    expected = 40_000 * P[BANK.numpy()] / (10 * Q_COUNTS[BANK.numpy()])
    assert stats.chisquare(counts, expected).pvalue > 0.003


def test_acceptance_is_that_of_a_chain_at_p():
    """Started at p, the chain is at p at every step: 1 - TV(p(y) q(x), p(x) q(y))."""
    both = P[:, None] * Q[None, :]
    expected = 1 - 0.5 * np.abs(both - both.T).sum()
    assert walk(20_000, 30).acceptance == pytest.approx(expected, abs=0.003)


def test_snapshots_are_of_the_first_chains():
    found = walk(20_000, 6, snapshots=(1, 3, 6, 9))
    assert sorted(found.by_length) == [1, 3, 6]
    for length, (rows, rate) in found.by_length.items():
        law, still = exact_law(length)
        assert float((rows == -1).double().mean()) == pytest.approx(still, abs=0.015)
        assert 0 < rate < 1
        moved = rows[rows >= 0]
        assert stats.chisquare(states(moved), len(moved) * law).pvalue > 0.003
    last, _ = found.by_length[6]
    kept = last >= 0
    assert torch.equal(found.rows[kept], last[kept])  # only the unmoved are begun again
    assert found.unmoved_share == pytest.approx(float((~kept).double().mean()))


def test_rows_of_no_number_and_without_weight_are_never_given():
    scores = torch.from_numpy(LOG_W)[BANK]
    scores[::2] = math.nan
    scores[1::4] = -math.inf
    found = walk(5000, 40, scores=scores)
    assert scores[found.rows].isfinite().all()


def test_same_seed_same_rows():
    first, second, other = walk(500, 10, 1), walk(500, 10, 1), walk(500, 10, 2)
    assert torch.equal(first.rows, second.rows)
    assert first.acceptance == second.acceptance
    assert not torch.equal(first.rows, other.rows)


def test_one_chain_of_one_proposal():
    found = walk(1, 1, 3)
    assert found.rows.shape == (1,)
    assert 0 <= int(found.rows) < len(BANK)


@pytest.mark.parametrize("value", [math.nan, -math.inf, -1e4])
def test_a_bank_that_is_never_accepted_is_refused(value):
    with pytest.raises(TrainingError, match="accepted none of 5 proposals") as caught:
        walk(50, 5, scores=torch.full((100,), value, dtype=torch.float64))
    assert "50 of 50" in caught.value.found


def test_the_refusal_names_the_way_that_makes_scores_softer():
    """Scores are divided by the temperature: above 1 is softer."""
    with pytest.raises(TrainingError) as caught:
        walk(5, 5, scores=torch.full((100,), math.nan))
    assert "temperature above 1" in caught.value.hint
    assert "temperature below 1" not in caught.value.hint


def test_a_single_acceptable_row_is_every_answer():
    scores = torch.full((50,), math.nan, dtype=torch.float64)
    scores[17] = 100.0
    found = walk(64, 200, scores=scores)
    assert (found.rows == 17).all()
