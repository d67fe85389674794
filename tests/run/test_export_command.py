"""`export`: every form answers like the model, or nothing is left behind."""

import pytest
import torch
from torch import nn

import bnnkit.run.export as export_module
from bnnkit.errors import ArtefactError, UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.rebuild import make_plan, make_slim
from bnnkit.io.export import write_onnx, write_pt2, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.destinations import targets
from bnnkit.run.export import export
from bnnkit.run.load import load
from bnnkit.spec import ModelSpec

ARCH = ModelSpec(arch="bnnkit:digits-cnn")
X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def loaded():
    return load_model(ARCH, seed=0)


@pytest.fixture(scope="module")
def checkpoint(loaded, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "net.pt"
    torch.save(loaded.module.state_dict(), path)
    return ModelSpec(file=str(path), arch="bnnkit:digits-cnn")


def answer(module):
    with torch.no_grad():
        return module.eval()(X)


def test_all_forms_from_a_checkpoint(checkpoint, loaded, tmp_path):
    report = export(checkpoint, tmp_path / "out", ["onnx", "pt2", "safetensors"])
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"net.onnx", "net.pt2", "net.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    expected = answer(loaded.module)
    for name in ("net.onnx", "net.pt2"):
        got = open_predictor(tmp_path / "out" / name)(X)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    again = load(tmp_path / "out" / "net.safetensors", arch="bnnkit:digits-cnn")
    assert torch.equal(answer(again), expected)
    checks = report.sections["checks"]
    assert [c["passed"] for c in checks] == [True, True, True]
    assert all(c["worst"] <= c["tolerance"] and c["n"] == 64 for c in checks)
    assert report.sections["inputs"] == "noise"
    assert "noise" in report.sections["model"]["notes"][-1]


def test_real_inputs_where_there_are_data(checkpoint, tmp_path):
    report = export(checkpoint, tmp_path / "m.safetensors", data="digits")
    assert report.sections["inputs"] == "data"
    assert report.sections["data"]["name"] == "digits"


def test_a_plan_travels_so_that_the_copy_loads_alone(loaded, tmp_path):
    structure = analyse(loaded.module, torch.zeros(2, 1, 8, 8))
    keep = torch.arange(structure.n_units) % 2 == 0
    theta = torch.ones(structure.n_units)
    slim = make_slim(loaded.module, structure, keep, theta, form="modules")
    plan = make_plan(structure, keep, theta, loaded.spec, form="modules", method="random")
    write_safetensors(slim, tmp_path / "slim.safetensors", plan)
    export(tmp_path / "slim.safetensors", tmp_path / "copy.safetensors")
    assert torch.equal(answer(load(tmp_path / "copy.safetensors")), answer(slim))


def test_a_pt2_is_exported_as_it_is(loaded, tmp_path):
    write_pt2(loaded.module, X[:2], tmp_path / "m.pt2")
    report = export(tmp_path / "m.pt2", tmp_path, ["onnx", "safetensors"])
    assert len(report.sections["checks"]) == 2
    got = open_predictor(tmp_path / "m.onnx")(X)
    torch.testing.assert_close(got, answer(loaded.module), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fault", ["disagrees", "cannot be written"])
def test_nothing_is_left_behind(checkpoint, tmp_path, monkeypatch, fault):
    real = export_module.write_pt2

    def broken(module, example, path):
        if fault == "disagrees":
            with torch.no_grad():
                return real(nn.Sequential(module, nn.Threshold(0.0, 1.0)), example, path)
        raise ArtefactError("Writing .pt2", "a loop", "it cannot be followed", "Use --no-pt2.")

    monkeypatch.setattr(export_module, "write_pt2", broken)
    with pytest.raises(ArtefactError) as caught:
        export(checkpoint, tmp_path / "new" / "out", ["safetensors", "pt2"])
    assert caught.value.code == 4
    assert "--no-pt2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_stay_without_force(checkpoint, tmp_path):
    place = tmp_path / "m.safetensors"
    place.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        export(checkpoint, place)
    assert place.read_text() == "mine"
    export(checkpoint, place, force=True)
    assert load(place, arch="bnnkit:digits-cnn") is not None


def test_where_each_form_goes(tmp_path):
    source = tmp_path / "resnet20-12fca82f.th"
    assert targets(source, tmp_path / "m.onnx") == {"onnx": tmp_path / "m.onnx"}
    # a checksum in the name would be false of the new file, and readers check it
    assert targets(source, tmp_path, ["pt2"]) == {"pt2": tmp_path / "resnet20.pt2"}
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        targets(source, tmp_path, ["onx"])
    with pytest.raises(UsageError, match="holds onnx only"):
        targets(source, tmp_path / "m.onnx", ["onnx", "pt2"])
    with pytest.raises(UsageError, match=r"Name it 'm\.onnx'"):
        targets(source, tmp_path / "m-0123abcd.onnx")


def test_what_only_runs_is_refused(loaded, tmp_path):
    write_onnx(loaded.module, X[:2], tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="only runs"):
        export(tmp_path / "m.onnx", tmp_path / "m.pt2")
    with pytest.raises(UsageError, match="--input-shape"):
        export(loaded.module, tmp_path / "m.pt2")
