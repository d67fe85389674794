"""The risk-coverage curve against brute force over orders, and its thinning."""

from __future__ import annotations

import pytest
import torch

from bnnkit.metrics import AURC, ERROR, aurc, error, log_probabilities, risk_coverage, thin


def answers(n, *, step=None, seed=0):
    """Return predictions and labels; with `step`, logits on a grid, so that many tie."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=g)
    logits = torch.randn(n, 4, generator=g)
    logits[torch.arange(n), labels] += 1.0
    return log_probabilities((logits / step).round() * step if step else logits), labels


def test_without_ties_by_a_loop():
    log_probs, labels = answers(200)
    order = sorted(range(200), key=lambda i: -float(log_probs[i].max()))
    wrong, expected = 0, []
    for k, i in enumerate(order, 1):
        wrong += int(log_probs[i].argmax() != labels[i])
        expected.append(wrong / k)
    coverage, risk = risk_coverage(log_probs, labels)
    assert coverage.tolist() == [k / 200 for k in range(1, 201)]
    assert risk.tolist() == pytest.approx(expected, abs=1e-12)
    assert aurc(log_probs, labels)[AURC] == pytest.approx(sum(expected) / 200, abs=1e-12)
    assert risk[-1] == pytest.approx(error(log_probs, labels)[ERROR])


def test_ties_have_the_mean_risk_of_every_order():
    log_probs, labels = answers(60, step=1.5)
    confidence = log_probs.max(1).values
    assert len(confidence.unique()) < 30
    wrong = (log_probs.argmax(1) != labels).double()
    g = torch.Generator().manual_seed(1)
    curves = []
    for _ in range(4000):
        shuffled = torch.randperm(60, generator=g)
        order = shuffled[confidence[shuffled].argsort(descending=True, stable=True)]
        curves.append(wrong[order].cumsum(0) / torch.arange(1, 61))
    expected = torch.stack(curves)
    _, risk = risk_coverage(log_probs, labels)
    se = expected.std(0) / 4000**0.5
    assert ((risk - expected.mean(0)).abs() <= 4.5 * se + 1e-12).all()


def test_the_order_of_the_inputs_does_not_matter():
    log_probs, labels = answers(100, step=1.0)
    other = torch.arange(99, -1, -1)
    assert torch.allclose(
        risk_coverage(log_probs, labels)[1], risk_coverage(log_probs[other], labels[other])[1]
    )


def test_equal_confidence_everywhere_is_flat():
    log_probs = log_probabilities(torch.eye(2)[[0, 0, 0, 0]])
    _, risk = risk_coverage(log_probs, torch.tensor([0, 1, 0, 0]))
    assert risk.tolist() == pytest.approx([0.25] * 4)


def test_thin_keeps_the_ends():
    x, y = torch.arange(10_000).double(), torch.rand(10_000)
    a, b = thin(x, y)
    assert len(a) == len(b) == 200
    assert (a[0], a[-1], b[0], b[-1]) == (x[0], x[-1], y[0], y[-1])
    assert a.unique().equal(a)
    assert thin(x[:150], y[:150])[0].equal(x[:150])
