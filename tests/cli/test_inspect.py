"""`bnnkit inspect` as it is typed."""

from __future__ import annotations

import json

import pytest
import torch

from bnnkit.__main__ import main
from bnnkit.cli.inspect import EXAMPLE
from bnnkit.zoo import ZOO


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def test_the_example_is_what_it_prints(capsys):
    command, *printed = EXAMPLE.splitlines()[2:]
    assert main(command.split("$ bnnkit ")[1].removesuffix("[/bold cyan]").split()) == 0
    got = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in got if line] == [line for line in printed if line]


def test_json_has_removable_and_locked(capsys):
    assert main(["inspect", "--arch", "bnnkit:lenet-300-100", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["removable"]["units"] == 400
    assert body["locked"][0]["reason"] == "the model's output"
    assert body["command"] == "inspect"


def test_a_file_alone(tmp_path, capsys):
    path = tmp_path / "net.pt"
    torch.save({"state_dict": ZOO["digits-cnn"]().state_dict()}, path)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "torch-zip" in out
    assert "at 'state_dict'" in out
    assert "--arch" in out


def test_names_from_a_file_reach_no_terminal_raw(tmp_path, capsys):
    path = tmp_path / "net.pt"
    torch.save({"conv\x1b[31m[red]": torch.zeros(2)}, path)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "neither a file nor --arch"),
        (["absent.pt"], "no such file"),
        (["--arch", "bnnkit:lenet5-cafe"], "lenet5-caffe"),
        (["--arch", "bnnkit:lenet5-caffe", "--input-shape", "a"], "--input-shape"),
        (["--arch", "bnnkit:lenet5-caffe", "--input-shape", "3,28,28"], "--input-shape"),
    ],
)
def test_refusals(args, words, capsys):
    assert main(["inspect", *args]) == 2
    assert words in capsys.readouterr().err
