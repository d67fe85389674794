"""`bnnkit bench`: its table, its gate, and its refusals."""

import json

import pytest
import torch

from bnnkit.__main__ import main
from bnnkit.io.export import write_onnx, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.spec import ModelSpec

QUICK = ("--seconds", "0.1", "--device", "cpu", "--batch", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    module = load_model(ModelSpec(arch="bnnkit:digits-cnn"), seed=1).module
    write_onnx(module, torch.randn(2, 1, 8, 8), folder / "net.onnx")
    write_safetensors(module, folder / "net.safetensors")
    return folder


def call(capsys, *args):
    code = main(["bench", *map(str, args)])
    return (code, *capsys.readouterr())


def test_forms_in_one_table_against_the_first(folder, capsys):
    files = (folder / "net.safetensors", folder / "net.onnx")
    code, out, _ = call(capsys, *files, "--arch", "bnnkit:digits-cnn", *QUICK)
    assert code == 0
    assert "net.safetensors (torch)" in out
    assert "net.onnx (onnxruntime)" in out
    assert "mixed, cpu, 1 thread, batch 1" in out


def test_a_speedup_can_be_a_gate(folder, capsys):
    twice = (folder / "net.onnx", folder / "net.onnx")
    code, out, _ = call(capsys, *twice, *QUICK, "--min-speedup", 1000, "--json")
    body = json.loads(out)
    assert code == 3
    assert body["gates"][0]["verdict"] == "fail"
    assert [m["name"] for m in body["latency"][0]["models"]] == ["net.onnx", "net.onnx #2"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--batch", "1,a"], ("--batch", "'1,a'", "--batch 1,32")),
        (["--threads", "0"], ("--threads", "'0'")),
        (["--min-speedup", "2"], ("one model", "bnnkit bench ORIGINAL SLIM")),
        (["--device", "gpu"], ("'gpu'", "auto, cpu or cuda")),
        (["--input-shape", "1,9,9", *QUICK], ("[1, 1, 9, 9]", "[*, 1, 8, 8]")),
        (["--max-error", "1"], ("--max-error",)),
    ],
)
def test_refusals_say_what_to_type(folder, capsys, args, words):
    code, out, err = call(capsys, folder / "net.onnx", *args)
    assert code == 2
    assert out == ""
    for word in words:
        assert word in err
    assert "Traceback" not in err
