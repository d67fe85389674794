"""Evaluation: figures with intervals, comparisons in pairs, and refusals that name both sides."""

from __future__ import annotations

import pytest
import torch

from bnnkit.errors import DataError
from bnnkit.io.data import load_data
from bnnkit.metrics import ece, log_probabilities
from bnnkit.run.evaluate import (
    Predictions,
    check_fit,
    check_outputs,
    compare,
    measure,
    predictions,
)
from bnnkit.spec import DataSpec


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSpec("digits"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def _answers(seed, n=1000, edge=2.0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=torch.Generator().manual_seed(9))
    logits = torch.randn(n, 10, generator=g)
    logits[torch.arange(n), labels] += edge
    return Predictions(log_probabilities(logits), labels)


def test_predictions_do_not_depend_on_the_batch_size(digits, model):
    a, b = (predictions(model, digits.test, batch_size=s) for s in (7, 400))
    assert torch.allclose(a.log_probs, b.log_probs, atol=1e-6)
    assert torch.equal(a.labels, digits.test.labels)


def test_measure_has_units_and_intervals():
    found = _answers(0)
    figures = measure(found)
    assert {k: q.unit for k, q in figures.items()} == {
        "error": "%",
        "nll": "nats",
        "ece": "%",
        "brier": "",
    }
    wrong = (found.log_probs.argmax(1) != found.labels).double().mean()
    assert figures["error"].value == pytest.approx(100 * float(wrong))
    assert figures["ece"].value == pytest.approx(100 * ece(found.log_probs, found.labels)["ece"])
    assert all(q.n == 1000 and q.low < q.value < q.high for q in figures.values())
    assert measure(found) == figures


def test_compare_is_slim_minus_original():
    good, bad = _answers(0, edge=3.0), _answers(1, edge=1.0)
    rise = compare(good, bad)
    single = measure(good), measure(bad)
    for key in ("error", "nll", "ece", "brier"):
        found = rise[f"{key}_rise"]
        assert found.value == pytest.approx(single[1][key].value - single[0][key].value)
        assert found.low < found.value < found.high
    assert rise["error_rise"].unit == "points"
    assert rise["error_rise"].low > 0


def test_a_model_compared_with_itself():
    rise = compare(_answers(0), _answers(0))
    assert all(q.value == 0 for q in rise.values())
    assert rise["error_rise"].low < 0 < rise["error_rise"].high


def test_other_labels_are_refused():
    with pytest.raises(DataError, match="1000 and 900"):
        compare(_answers(0), _answers(0, n=900))


@pytest.mark.parametrize("outputs", [5, 1000])
def test_wrong_number_of_outputs_names_both_sides(digits, outputs):
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))
    with pytest.raises(DataError, match=rf"{outputs} outputs .* 10 classes"):
        predictions(head, digits.test)


def test_counted_classes_may_be_fewer(tmp_path):
    import numpy as np

    np.savez(tmp_path / "a.npz", x=np.zeros((20, 4, 4), np.uint8), y=np.arange(20) % 3)
    data = load_data(DataSpec(str(tmp_path / "a.npz")))
    check_outputs(1000, data.test)
    with pytest.raises(DataError, match=r"2 outputs .* 3 classes"):
        check_outputs(2, data.test)


def test_rows_must_match_inputs(digits):
    with pytest.raises(DataError, match="for 256 inputs"):
        predictions(lambda x: x.flatten(1)[:5], digits.train)


def test_check_fit_names_both_sides(digits):
    check_fit((1, 8, 8), digits)
    check_fit(None, digits)
    with pytest.raises(DataError, match=r"3x8x8 .* 1x8x8; the channels differ"):
        check_fit((3, 8, 8), digits)
    with pytest.raises(DataError, match=r"1x28x28 .* 1x8x8; the sizes differ"):
        check_fit((1, 28, 28), digits)
    with pytest.raises(DataError, match="the axes differ"):
        check_fit((64,), digits)
