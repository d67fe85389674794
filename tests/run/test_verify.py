import copy
import math

import pytest
import torch
from torch import nn

from bnnkit.errors import ArtefactError, ExitCode
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.verify import Check, require, verify_answers, verify_forms

INPUTS = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()


class Fake:
    """A predictor from a function."""

    name, form, device = "fake", "torch", "cpu"

    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)


def test_equal_forms_pass(model):
    checks = verify_forms(
        open_predictor(model), {"copy": open_predictor(copy.deepcopy(model))}, INPUTS
    )
    assert checks == [Check("copy", 0.0, 1e-4, "relative", 100, True)]
    require(checks)


@pytest.mark.parametrize("scale", [1e-6, 1000.0])
def test_the_figure_is_the_stated_one(scale):
    answers = scale * INPUTS
    wrong = answers.clone()
    wrong[70, 2] += scale / 2
    table = {tuple(row.tolist()): out for row, out in zip(INPUTS, wrong, strict=True)}
    candidate = Fake(lambda x: torch.stack([table[tuple(row.tolist())] for row in x]))
    check = verify_forms(Fake(lambda x: scale * x), {"w": candidate}, INPUTS)[0]
    assert check.worst == pytest.approx(0.5 / float(INPUTS.abs().max()), rel=1e-3)
    assert not check.passed


def test_a_slim_model_with_one_wrong_weight_is_not_delivered(model):
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong[0].weight[3, 2] += 0.01
    checks = verify_forms(
        open_predictor(model),
        {"good": open_predictor(copy.deepcopy(model)), "slim": open_predictor(wrong)},
        INPUTS,
    )
    assert [c.passed for c in checks] == [True, False]
    with pytest.raises(ArtefactError, match=r"'slim' differs by .* over 100 inputs.*0\.0001") as e:
        require(checks)
    assert e.value.code == ExitCode.ARTEFACT


@pytest.mark.parametrize("batch", [1, 3])
def test_a_form_that_is_wrong_at_one_batch_size_is_found(model, batch):
    right = open_predictor(model)
    candidate = Fake(lambda x: right(x) + 1 if len(x) == batch else right(x))
    assert not verify_forms(right, {"c": candidate}, INPUTS[:64])[0].passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_fails_even_where_the_reference_agrees(bad):
    broken = Fake(lambda x: x * bad)
    check = verify_forms(broken, {"c": broken}, INPUTS)[0]
    assert check.worst == math.inf
    assert not check.passed
    with pytest.raises(ArtefactError, match="inf"):
        require([check])


def test_another_shape_fails(model):
    right = open_predictor(model)
    check = verify_forms(right, {"c": Fake(lambda x: right(x)[:, :1])}, INPUTS)[0]
    assert not check.passed


def test_no_inputs_prove_nothing(model):
    right = open_predictor(model)
    with pytest.raises((ArtefactError, ValueError)):
        require(verify_forms(right, {"c": right}, INPUTS[:0]))


def test_a_form_that_does_not_run_is_named(model):
    def refuse(x):
        if len(x) == 1:
            raise RuntimeError("no single inputs\nand a second line")
        return model(x).detach()

    with pytest.raises(ArtefactError, match=r"'c' does not run at batch size 1; no single inputs"):
        verify_forms(open_predictor(model), {"c": Fake(refuse)}, INPUTS)


def test_each_output_has_its_own_divisor():
    expected = [INPUTS, 1e3 * INPUTS]
    wrong = [INPUTS + 0.5, 1e3 * INPUTS + 0.5]
    asked = []

    def answers(count):
        asked.append(count)
        return [out[:count] for out in wrong]

    check = verify_answers("a", answers, expected, tolerance=1.0)
    assert check.worst == pytest.approx(0.5 / float(INPUTS.abs().max()), rel=1e-5)
    assert check == Check("a", check.worst, 1.0, "relative", 100, True)
    assert sorted(asked) == [1, 3, 100]


def test_the_worst_of_several_is_named():
    checks = [
        Check("a", 1e-3, 1e-4, "relative", 5, False),
        Check("b", 1e-3, 1e-9, "relative", 5, False),
        Check("c", 0.0, 1e-9, "relative", 5, True),
    ]
    with pytest.raises(ArtefactError, match=r"'b' differs.*'a', 'b'"):
        require(checks)
