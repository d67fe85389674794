"""The bins of the reliability diagram against a loop, and against the calibration error."""

from __future__ import annotations

import pytest
import torch

from bnnkit.metrics import ECE, ECE_EQUAL_MASS, ece, log_probabilities, reliability


def answers(n, k=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=g)
    logits = 2 * torch.randn(n, k, generator=g)
    logits[torch.arange(n), labels] += 2
    return log_probabilities(logits), labels


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_by_a_loop(bins):
    log_probs, labels = answers(700)
    found = reliability(log_probs, labels, bins=bins)
    confidence, guess = log_probs.exp().max(1)
    assert int(found.inputs.sum()) == 700
    for b in range(bins):
        rows = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        assert found.inputs[b] == rows.sum()
        right = (guess == labels)[rows].double().mean()
        assert torch.allclose(found.accuracy[b], right, equal_nan=True)
        assert torch.allclose(found.confidence[b], confidence[rows].mean(), equal_nan=True)


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_the_gaps_make_the_calibration_error(n):
    log_probs, labels = answers(n)
    mean, accuracy, count = reliability(log_probs, labels)
    total = float((count.double() / n * (accuracy - mean).abs()).nansum())
    assert total == pytest.approx(ece(log_probs, labels)[ECE], abs=1e-12)


def test_both_calibration_errors_by_a_loop_with_ties_and_edges():
    # confidences on the very edges of the bins, many alike
    p = torch.tensor([[9, 6], [12, 3], [15, 0], [8, 7], [12, 3], [12, 3]] * 10).double() / 15
    labels = torch.arange(60) % 2
    log_probs = p.log()
    confidence = p.max(1).values
    right = (p.argmax(1) == labels).double()
    width = 0.0
    for b in range(15):
        # an edge belongs to the bin below it, whatever exp(log p) rounds to
        rows = (log_probs.exp().max(1).values > b / 15) & (
            log_probs.exp().max(1).values <= (b + 1) / 15
        )
        width += abs(float((right - confidence)[rows].sum())) / 60
    parts = (right - confidence)[confidence.argsort(stable=True)].tensor_split(15)
    mass = sum(abs(float(part.sum())) for part in parts) / 60
    found = ece(log_probs, labels)
    assert found[ECE] == pytest.approx(width, abs=1e-12)
    assert found[ECE_EQUAL_MASS] == pytest.approx(mass, abs=1e-12)
