"""`bnnkit eval`: what it prints, the files it leaves, its exit codes and its refusals."""

import json
import xml.etree.ElementTree as ET

import pytest
import torch

from bnnkit.__main__ import main
from bnnkit.io.export import write_onnx
from bnnkit.io.models import load_model
from bnnkit.spec import ModelSpec

DATA = ("--data", "digits", "--limit", "60", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    module = load_model(ModelSpec(arch="bnnkit:digits-cnn"), seed=1).module
    write_onnx(module, torch.randn(2, 1, 8, 8), folder / "net.onnx")
    torch.save({"state_dict": module.state_dict()}, folder / "net.pt")
    return folder


def call(capsys, *args):
    code = main(["eval", *map(str, args)])
    return (code, *capsys.readouterr())


def test_the_table_and_the_notes_go_to_stdout_and_progress_to_stderr(folder, capsys):
    code, out, err = call(capsys, folder / "net.pt", "--arch", "bnnkit:digits-cnn", *DATA)
    assert code == 0
    for word in ("error", "NLL", "ECE", "Brier score", "parameters", "95% intervals"):
        assert word in out
    assert "entry 'state_dict'" in out
    assert "held out" in out
    assert "Evaluating net.pt" in err


def test_json_is_all_that_stdout_gets(folder, capsys):
    code, out, _ = call(capsys, folder / "net.onnx", *DATA, "--json")
    body = json.loads(out)
    assert code == 0
    assert body["command"] == "eval"
    assert body["slim"]["error"]["n"] == 60
    assert body["data"]["name"] == "digits"


def test_against_judges_the_pairs_and_leaves_the_files(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    code, out, _ = call(
        capsys,
        *(folder / "net.onnx", "--against", folder / "net.pt", "--arch", "bnnkit:digits-cnn"),
        *(*DATA, "--max-nll-rise", 0.01, "--max-error", 1),
        *("--report", tmp_path / "r.json", "--junit", tmp_path / "j.xml"),
    )
    assert code == 3
    assert "Original against slim" in out
    body = json.loads((tmp_path / "r.json").read_text())
    verdicts = {row["gate"]: row["verdict"] for row in body["gates"]}
    assert verdicts == {"max-nll-rise": "pass", "max-error": "fail"}
    suite = ET.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_a_report_that_ends_in_html_is_a_page(folder, tmp_path, capsys):
    page = tmp_path / "new" / "r.html"
    assert call(capsys, folder / "net.onnx", *DATA, "--report", page)[0] == 0
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


def test_a_missing_figure_keeps_stdout_one_document(folder, capsys):
    pair = (folder / "net.onnx", "--against", folder / "net.onnx")
    code, out, err = call(capsys, *pair, *DATA, "--min-mac-ratio", 2, "--json")
    assert code == 2
    assert json.loads(out)["gates"][0]["verdict"] == "missing"
    assert "no figure for --min-mac-ratio" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ("no --data",)),
        (["--data", "digit"], ("'digit'", "Did you mean 'digits'?")),
        ([*DATA, "--max-error-rise", "1"], ("--max-error-rise", "--against")),
        ([*DATA, "--against-arch", "bnnkit:x"], ("--against FILE",)),
        ([*DATA, "--normalize", "imagnet"], ("'imagnet'", "Did you mean 'imagenet'?")),
        ([*DATA, "--normalize", "none", "--mean", "0"], ("--normalize none beside --mean",)),
        ([*DATA, "--mean", "half"], ("--mean", "'half'")),
        ([*DATA, "--input-shape", "3x"], ("'3x'", "--input-shape 3,32,32")),
        ([*DATA, "--arch-arg", "ten"], ("'ten'", "num_classes=10")),
    ],
)
def test_refusals_say_what_to_type(folder, capsys, args, words):
    code, out, err = call(capsys, folder / "net.onnx", *args)
    assert code == 2
    assert out == ""
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_a_wrong_path_and_a_wrong_architecture(folder, capsys):
    code, _, err = call(capsys, folder / "net.onx", *DATA)
    assert code == 2
    assert "Did you mean 'net.onnx'?" in err
    code, _, err = call(capsys, folder / "net.pt", *DATA)
    assert code == 2
    assert "They fit --arch bnnkit:digits-cnn" in err
    code, _, err = call(capsys, folder / "net.pt", "--arch", "bnnkit:digits", *DATA)
    assert code == 2
    assert "Did you mean 'digits-cnn'?" in err
