"""Forms of a model are written, opened again and judged, each by its own comparison."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bnnkit.io.export import write_onnx, write_pt2, write_safetensors
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.progress import SilentProgress
from bnnkit.run.verify import Check
from bnnkit.run.written_forms import RELOADED, Form, agree_within, write_forms


class Counted(SilentProgress):
    """Counts the forms that are done."""

    done = 0

    def advance(self, steps=1):
        self.done += steps


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()


@pytest.fixture
def inputs():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def forms_of(net, inputs, other=None, verify=None):
    def opened(path):
        again = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
        again.load_state_dict(load_file(path))
        return open_predictor(again)

    return [
        Form("safetensors", partial(write_safetensors, net), agree_within(RELOADED), opened),
        Form("pt2", partial(write_pt2, net, inputs[:2]), agree_within(1e-5)),
        Form("onnx", partial(write_onnx, other or net, inputs[:2]), verify or agree_within(1e-5)),
    ]


@pytest.mark.parametrize("formats", [("pt2", "onnx"), ("onnx",), ()])
def test_what_is_wanted_is_written_and_agrees(net, inputs, formats, tmp_path):
    progress = Counted()
    model = open_predictor(net, name="slim")
    checks, written = write_forms(
        tmp_path, model, forms_of(net, inputs), formats, inputs, progress
    )
    kinds = ["safetensors", *formats]
    assert [check.name for check in checks] == [f"slim = {kind}" for kind in kinds]
    assert all(check.passed and check.n == 6 for check in checks)
    assert [check.tolerance for check in checks] == [1e-6] + [1e-5] * len(formats)
    assert [w.path for w in written] == [tmp_path / f"model.{kind}" for kind in kinds]
    assert {path.name for path in tmp_path.iterdir()} == {f"model.{kind}" for kind in kinds}
    assert progress.done == len(kinds)


def test_a_form_that_answers_otherwise_is_seen(net, inputs, tmp_path):
    other = nn.Sequential(*net[:2], nn.Linear(7, 3)).eval()
    checks, _ = write_forms(
        tmp_path, open_predictor(net), forms_of(net, inputs, other), ("onnx",), inputs, Counted()
    )
    assert [check.passed for check in checks] == [True, False]


def test_a_form_may_be_judged_otherwise(net, inputs, tmp_path):
    def rough(name, model, opened, inputs):
        gap = float((model(inputs) - opened(inputs)).abs().mean())
        return [Check(f"{name}, roughly", gap, 10.0, "mean difference", len(inputs), gap <= 10.0)]

    other = nn.Sequential(*net[:2], nn.Linear(7, 3)).eval()
    forms = forms_of(net, inputs, other, rough)
    model = open_predictor(net, name="slim")
    checks, _ = write_forms(tmp_path, model, forms, ("onnx",), inputs, Counted())
    assert checks[1].name == "slim = onnx, roughly"
    with torch.no_grad():
        assert checks[1].worst == pytest.approx(float((net(inputs) - other(inputs)).abs().mean()))
