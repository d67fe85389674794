"""`bnnkit export`: where the files go, what it prints, and exit 4 with nothing left behind."""

import json

import pytest
import torch

import bnnkit.run.export as export_module
from bnnkit.__main__ import main
from bnnkit.io.models import load_model
from bnnkit.spec import ModelSpec

ARCH = ("--arch", "bnnkit:digits-cnn")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    module = load_model(ModelSpec(arch="bnnkit:digits-cnn"), seed=1).module
    torch.save(module.state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *args):
    code = main(["export", *map(str, args)])
    return (code, *capsys.readouterr())


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_default_is_an_onnx_file_in_a_folder_of_its_own(folder, capsys):
    code, out, _ = call(capsys, "net.pt", *ARCH)
    assert code == 0
    assert names(folder) == ["net-export/net.onnx", "net.pt"]
    assert "pass" in out
    assert "Wrote net-export/net.onnx" in out
    assert "noise (seed 0), not on real data" in out


def test_a_file_by_its_suffix_and_json(folder, capsys):
    code, out, _ = call(
        capsys, "net.pt", *ARCH, "--out", "a/b.safetensors", "--data", "digits", "--json"
    )
    body = json.loads(out)
    assert code == 0
    assert names(folder) == ["a/b.safetensors", "net.pt"]
    assert body["inputs"] == "data"
    assert body["files"][0]["file"] == "b.safetensors"
    assert body["checks"][0]["passed"] is True


def test_a_form_that_disagrees_is_exit_4_and_not_delivered(folder, capsys, monkeypatch):
    real = export_module.write_safetensors

    def broken(module, path, plan=None):
        with torch.no_grad():
            module.fc.weight[0] += 1
            written = real(module, path, plan)
            module.fc.weight[0] -= 1
        return written

    monkeypatch.setattr(export_module, "write_safetensors", broken)
    code, out, err = call(capsys, "net.pt", *ARCH, "--out", "new/m.safetensors")
    assert code == 4
    assert "nothing is delivered" in err
    assert "Wrote" not in out
    assert names(folder) == ["net.pt"]
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "onx"], ("'onx'", "Did you mean 'onnx'?")),
        (["--out", "m.onnx", "--format", "pt2"], ("'m.onnx'", "--format")),
        (["--out", "net.pt/m.onnx"], ("net.pt",)),
        (["--data", "nothing-here"], ("'nothing-here'", "no such folder or file")),
    ],
)
def test_refusals_say_what_to_type(folder, capsys, args, words):
    code, out, err = call(capsys, "net.pt", *ARCH, *args)
    assert code == 2
    assert out == ""
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert names(folder) == ["net.pt"]


def test_an_existing_file_is_kept(folder, capsys):
    (folder / "m.safetensors").write_text("mine")
    code, _, err = call(capsys, "net.pt", *ARCH, "--out", "m.safetensors")
    assert code == 2
    assert "--force" in err
    assert (folder / "m.safetensors").read_text() == "mine"
