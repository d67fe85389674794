"""Temperatures are fitted to labels that they are not judged by."""

import math

import pytest
import torch
from torch.nn import functional as F

from bnnkit.errors import UsageError
from bnnkit.io.data import load_data
from bnnkit.run.uncertainty.answers import Answers
from bnnkit.run.uncertainty.calibration import plan_calibration
from bnnkit.spec import DataSpec


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSpec("digits", limit=300))


def source(seed):
    return torch.Generator().manual_seed(seed)


def answers(split, *, scale=3.0, seed=0):
    """Answers that are right more often than not, and too sure."""
    logits = torch.randn(len(split), 10, generator=source(seed)).double()
    logits[torch.arange(len(split)), split.labels] += 1.5
    return Answers(F.log_softmax(scale * logits, dim=1), split.labels)


def best(found, rows):
    """Return the temperature of the largest posterior density on a fine grid, by brute force."""
    middle = 0.0  # of log T
    for step in (0.05, 0.0005):
        losses = {
            t: F.cross_entropy(found.log_probs[rows] / math.exp(t), found.labels[rows],
                               reduction="sum") + t * t / (2 * 0.5**2)
            for t in (middle + step * i for i in range(-100, 101))
        }  # fmt: skip
        middle = min(losses, key=losses.__getitem__)
    return math.exp(middle)


def test_cross_judges_each_half_at_the_temperature_of_the_other(digits):
    plan = plan_calibration("cross", digits.train, digits.test, 3)
    assert plan.held is None
    assert torch.equal(plan.measured.labels, digits.test.labels)
    a, b = plan.halves
    assert sorted([*a.tolist(), *b.tolist()]) == list(range(len(digits.test)))
    for label in range(10):
        first, second = (int((digits.test.labels[rows] == label).sum()) for rows in (a, b))
        assert abs(first - second) <= 1
    found = answers(digits.test)
    judged, whole = plan.temper(found, None)
    for rows, others in ((a, b), (b, a)):
        expected = F.log_softmax(found.log_probs[rows] / best(found, others), dim=1)
        torch.testing.assert_close(judged.log_probs[rows], expected, rtol=2e-3, atol=2e-3)
    assert whole == pytest.approx(best(found, torch.arange(len(digits.test))), rel=1e-3)
    assert best(found, a) != pytest.approx(best(found, b), rel=1e-3)


def test_cross_never_shows_a_half_its_own_labels(digits):
    plan = plan_calibration("cross", digits.train, digits.test, 3)
    a, b = plan.halves
    found = answers(digits.test)
    before, _ = plan.temper(found, None)
    labels = found.labels.clone()
    labels[a] = (labels[a] + 1) % 10
    after, _ = plan.temper(Answers(found.log_probs, labels), None)
    assert torch.equal(after.log_probs[a], before.log_probs[a])
    assert not torch.allclose(after.log_probs[b], before.log_probs[b])


def test_a_temperature_changes_no_decision_and_no_order(digits):
    plan = plan_calibration("cross", digits.train, digits.test, 0)
    found = answers(digits.test)
    judged, _ = plan.temper(found, None)
    assert torch.equal(judged.log_probs.argsort(1), found.log_probs.argsort(1))
    torch.testing.assert_close(
        judged.log_probs.exp().sum(1), torch.ones(len(found.labels)).double()
    )
    assert torch.equal(found.log_probs, answers(digits.test).log_probs)  # left as they were


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_share_of_the_test_part_is_set_aside_and_not_judged(digits, share):
    plan = plan_calibration(f"test:{share}", digits.train, digits.test, 1)
    assert (plan.place, plan.share, plan.halves) == ("test", share, None)
    assert len(plan.measured) + len(plan.held) == len(digits.test)
    assert len(plan.held) == pytest.approx(share * len(digits.test), abs=5)
    judged, held = (
        {x.numpy().tobytes() for batch, _ in part.batches(64) for x in batch}
        for part in (plan.measured, plan.held)
    )
    assert not judged & held
    kept = answers(plan.held, seed=1)
    tempered, temperature = plan.temper(answers(plan.measured), kept)
    assert temperature == pytest.approx(best(kept, torch.arange(len(plan.held))), rel=1e-3)
    expected = F.log_softmax(answers(plan.measured).log_probs / temperature, dim=1)
    torch.testing.assert_close(tempered.log_probs, expected)


def test_a_share_of_the_training_part_leaves_the_test_part_whole(digits):
    plan = plan_calibration("train:0.1", digits.train, digits.test, 1)
    assert plan.measured is digits.test
    assert plan.halves is None
    assert len(plan.held) == round(0.1 * len(digits.train))
    known = {x.numpy().tobytes() for batch, _ in digits.train.batches(64) for x in batch}
    assert {x.numpy().tobytes() for batch, _ in plan.held.batches(64) for x in batch} <= known


@pytest.mark.parametrize("text", ["cross", "test:0.3", "train:0.3"])
def test_the_draw_follows_the_seed(digits, text):
    def labels(seed):
        plan = plan_calibration(text, digits.train, digits.test, seed)
        return plan.halves[0] if plan.held is None else plan.held.labels

    assert torch.equal(labels(5), labels(5))
    assert not torch.equal(labels(5), labels(6))


def test_another_place_is_refused(digits):
    with pytest.raises(UsageError, match="--calibration-split"):
        plan_calibration("valid:0.2", digits.train, digits.test, 0)
