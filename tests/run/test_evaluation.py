"""`evaluate`: the same figures from every form of a model, and pairs on the same inputs."""

import pytest
import torch
from torch import nn

from bnnkit.errors import DataError, UsageError
from bnnkit.io.data import load_data
from bnnkit.io.export import write_onnx, write_pt2, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.run.evaluation import evaluate
from bnnkit.run.forms import distinct_names, open_form
from bnnkit.spec import DataSpec, ModelSpec

FORMS = ("module", "safetensors", "pt2", "onnx", "torchscript")
DATA = DataSpec("digits", limit=100)


@pytest.fixture(scope="module")
def module():
    return load_model(ModelSpec(arch="bnnkit:digits-cnn"), seed=1).module.eval()


@pytest.fixture(scope="module")
def sources(module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    x = torch.randn(2, 1, 8, 8)
    write_onnx(module, x, folder / "m.onnx")
    write_pt2(module, x, folder / "m.pt2")
    torch.jit.trace(module, x).save(folder / "m.ts")
    write_safetensors(module, folder / "m.safetensors")
    tensors = ModelSpec(file=str(folder / "m.safetensors"), arch="bnnkit:digits-cnn")
    files = {"pt2": folder / "m.pt2", "onnx": folder / "m.onnx", "torchscript": folder / "m.ts"}
    return {"module": module, "safetensors": tensors, **files}


@pytest.fixture(scope="module")
def expected(module):
    """Error and NLL straight from torch."""
    test = load_data(DATA).test
    x = torch.cat([x for x, _ in test.batches(50)])
    with torch.no_grad():
        outputs = module(x).double()
    wrong = 100 * float((outputs.argmax(1) != test.labels).double().mean())
    return wrong, float(nn.functional.cross_entropy(outputs, test.labels))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_figures_of_torch(sources, expected, form):
    report = evaluate(sources[form], DATA, device="cpu")
    assert report.command == "eval"
    assert report.quantity("slim", "error").value == pytest.approx(expected[0])
    assert report.quantity("slim", "nll").value == pytest.approx(expected[1], rel=1e-4)
    figure = report.quantity("slim", "nll")
    assert figure.low < figure.value < figure.high
    assert figure.n == 100
    assert "original" not in report.sections
    counts = report.sections["slim"]
    if form in ("module", "safetensors", "pt2"):
        assert counts["parameters"] == sum(p.numel() for p in sources["module"].parameters())
        assert counts["macs"] > 1e5
    else:
        assert "macs" not in counts


def test_a_model_against_itself_rises_by_nothing(sources):
    report = evaluate(sources["onnx"], DATA, against=sources["safetensors"], device="cpu")
    rise = report.quantity("paired", "nll_rise")
    assert rise.value == pytest.approx(0, abs=1e-5)
    assert report.quantity("paired", "error_rise").value == 0
    assert report.sections["against"]["form"] == "torch"
    assert set(report.sections["ratios"]) == {"file"}


def test_the_module_of_the_caller_is_left_as_it_was(module):
    module.train()
    evaluate(module, DATA, device="cpu")
    assert all(part.training for part in module.modules())
    module.eval()


def test_models_of_different_input_shapes_are_paired_on_the_same_images(sources):
    flat = nn.Sequential(nn.Linear(64, 10))
    report = evaluate(nn.Sequential(nn.Flatten(), flat), DATA, against=sources["onnx"])
    assert report.quantity("paired", "error_rise").n == 100


def test_a_model_that_stops_on_the_inputs_is_a_refusal():
    wrong = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
    wrong(torch.zeros(1, 3, 8, 8))
    with pytest.raises(DataError, match=r"\[1, 8, 8\].*--input-shape"):
        evaluate(wrong, DATA)


def test_a_state_key_has_no_meaning_for_a_program(sources):
    with pytest.raises(UsageError, match="'ema'"):
        open_form(ModelSpec(file=str(sources["pt2"]), state_key="ema"))


def test_names_are_as_long_as_needed(tmp_path):
    assert distinct_names([nn.ReLU(), nn.ReLU(), ModelSpec(arch="bnnkit:a")]) == [
        "ReLU",
        "ReLU #2",
        "bnnkit:a",
    ]
    assert distinct_names([tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"]) == [
        "a/m.onnx",
        "b/m.onnx",
    ]


def test_a_graph_of_a_fixed_batch_size_is_measured(module, expected, tmp_path):
    program = torch.export.export(module, (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "static.pt2")
    report = evaluate(tmp_path / "static.pt2", DATA, device="cpu")
    assert report.quantity("slim", "error").value == pytest.approx(expected[0])
    assert "macs" not in report.sections["slim"]
