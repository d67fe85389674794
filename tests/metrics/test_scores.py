"""Error, NLL, Brier score and calibration error against torchmetrics and definitions."""

from __future__ import annotations

import importlib

import pytest
import torch
from sklearn.metrics import log_loss

from bnnkit.io.vision import torchvision
from bnnkit.metrics import (
    BRIER,
    ECE,
    ECE_EQUAL_MASS,
    ERROR,
    NLL,
    brier,
    brier_each,
    ece,
    error,
    error_each,
    log_probabilities,
    nll,
    nll_each,
)


@pytest.fixture(scope="module")
def reference():
    torchvision()  # torchmetrics imports it, also where its compiled operators are missing
    return importlib.import_module("torchmetrics.functional.classification")


@pytest.fixture
def answers():
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (2000,), generator=g)
    logits = 2 * torch.randn(2000, 10, generator=g)
    logits[torch.arange(2000), labels] += 2
    return log_probabilities(logits), labels


def test_error_is_one_minus_accuracy(answers, reference):
    accuracy = reference.multiclass_accuracy(*answers, num_classes=10, average="micro")
    assert error(*answers)[ERROR] == pytest.approx(1 - float(accuracy), abs=1e-6)
    assert set(error_each(*answers).tolist()) == {0.0, 1.0}


def test_nll_against_sklearn(answers):
    expected = log_loss(answers[1].numpy(), answers[0].exp().numpy())
    assert nll(*answers)[NLL] == pytest.approx(expected, rel=1e-10)
    assert len(nll_each(*answers)) == 2000


def test_brier_by_definition(answers):
    log_probs, labels = answers
    one_hot = torch.nn.functional.one_hot(labels, 10)
    expected = ((log_probs.exp() - one_hot) ** 2).sum(1)
    assert torch.allclose(brier_each(log_probs, labels), expected)
    assert brier(log_probs, labels)[BRIER] == pytest.approx(float(expected.mean()))


def test_ece_against_torchmetrics(answers, reference):
    p = answers[0].exp()
    expected = reference.multiclass_calibration_error(p, answers[1], num_classes=10, n_bins=15)
    assert ece(*answers)[ECE] == pytest.approx(float(expected), abs=1e-6)


def test_ece_equal_mass_by_definition(answers):
    log_probs, labels = answers
    confidence, guess = log_probs.exp().max(1)
    right = (guess == labels).double()
    order = confidence.argsort()
    expected = sum(
        len(rows) / 2000 * abs(float(right[rows].mean() - confidence[rows].mean()))
        for rows in order.tensor_split(15)
    )
    assert ece(log_probs, labels)[ECE_EQUAL_MASS] == pytest.approx(expected, abs=1e-12)


def test_a_certain_model_falls_into_the_last_bin():
    log_probs = log_probabilities(torch.eye(2)[[0, 0, 0, 0]])
    assert ece(log_probs, torch.tensor([0, 0, 0, 1]))[ECE] == pytest.approx(0.25)


def test_one_example():
    found = ece(log_probabilities(torch.tensor([[0.3, 0.7]])), torch.tensor([1]))
    assert found[ECE] == pytest.approx(0.3)
    assert found[ECE_EQUAL_MASS] == pytest.approx(0.3)
