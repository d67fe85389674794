"""Logits, log-probabilities and probabilities of one model are one answer."""

from __future__ import annotations

import pytest
import torch
from scipy.special import log_softmax

from bnnkit.errors import DataError
from bnnkit.metrics import log_probabilities
from bnnkit.metrics.outputs import kind_of_outputs
from bnnkit.spec.noise import OUTPUTS


@pytest.fixture
def logits():
    return 4 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


def test_logits_against_scipy(logits):
    expected = torch.from_numpy(log_softmax(logits.double().numpy(), axis=1))
    found = log_probabilities(logits)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_and_log_probabilities_are_recognised(logits, dtype):
    expected = log_probabilities(logits)
    for form in (logits.softmax(1).to(dtype), logits.log_softmax(1)):
        assert torch.allclose(log_probabilities(form).exp(), expected.exp(), atol=1e-2)
    assert torch.allclose(log_probabilities(logits.softmax(1)), expected, atol=1e-4)


def test_certain_probabilities_stay_finite():
    found = log_probabilities(torch.eye(3))
    assert torch.isfinite(found).all()
    assert torch.allclose(found.exp(), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_kind_is_told_in_every_precision(logits, dtype):
    forms = {
        "logits": [logits, logits.log_softmax(1), logits.softmax(1) * 1.2, logits[..., None]],
        "probabilities": [logits.softmax(1), torch.eye(3), logits.softmax(1)[..., None, None]],
        "binary-logit": [logits[:, 0], logits[:, :1], logits[:, :1, None]],
        "binary-probability": [logits[:, 0].sigmoid(), logits[:, :1].sigmoid()],
    }
    assert set(forms) == set(OUTPUTS)
    for kind, tensors in forms.items():
        assert [kind_of_outputs(t.to(dtype)) for t in tensors] == [kind] * len(tensors)


def test_what_single_precision_does_not_round_to_is_no_probability(logits):
    rows = logits.softmax(1) * 1.001
    assert kind_of_outputs(rows) == "logits"
    assert kind_of_outputs(rows.bfloat16()) == "probabilities"


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3, 1), (2, 3, 4, 4), (2, 1, 3)])
def test_other_shapes_have_no_kind(shape):
    for read in (kind_of_outputs, log_probabilities):
        with pytest.raises(DataError, match="outputs of shape"):
            read(torch.zeros(shape))


def test_non_negative_logits_are_not_probabilities():
    found = log_probabilities(torch.tensor([[2.0, 1.0], [0.5, 0.5]]))
    assert found[0, 0] - found[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_binary_outputs_become_two_columns(shape):
    z = torch.tensor([-3.0, -0.1, 0.4, 40.0]).view(shape)
    found = log_probabilities(z).exp()
    assert torch.allclose(found[:, 1], z.flatten().double().sigmoid())
    assert torch.allclose(found.sum(1), torch.ones(4, dtype=torch.float64))
    p = torch.tensor([0.0, 0.2, 1.0]).view(-1, *shape[1:])
    assert torch.allclose(log_probabilities(p).exp()[:, 1].float(), p.flatten())


def test_trailing_axes_of_length_one_are_dropped(logits):
    assert torch.equal(log_probabilities(logits[..., None, None]), log_probabilities(logits))


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        (torch.zeros(2, 3, 4, 4), r"\[2, 3, 4, 4\]"),
        (torch.zeros(0, 3), r"\[0, 3\]"),
        (torch.tensor([[0.0, torch.nan], [1.0, 2.0]]), "1 of 2 inputs"),
    ],
)
def test_refusals_say_what_was_found(outputs, word):
    with pytest.raises(DataError, match=word):
        log_probabilities(outputs)
