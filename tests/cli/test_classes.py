"""`--classes`: how it is read, which commands have it, and what they do with it."""

import json

import pytest

from bnnkit.__main__ import main
from bnnkit.cli.options import DataOptions
from bnnkit.errors import UsageError

NET = ("--arch", "bnnkit:digits-cnn", "--arch-arg", "num_classes=3", "--data", "digits")


def test_the_option_becomes_part_of_the_specification():
    assert DataOptions("digits").spec("eval").classes is None
    options = DataOptions("digits", classes=" cat,T-shirt/top , 3")
    assert options.spec("eval").classes == ("cat", "T-shirt/top", "3")


@pytest.mark.parametrize("text", ["", ",", "cat,", "cat,,dog"])
def test_an_empty_part_is_refused(text):
    with pytest.raises(UsageError, match="Reading --classes"):
        DataOptions("digits", classes=text).spec("eval")


@pytest.mark.parametrize("command", ["prune", "train", "eval"])
def test_commands_that_take_a_limit_take_classes(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--limit" in text
    assert "--classes" in text


def test_a_net_is_trained_and_measured_on_some_classes(tmp_path, capsys):
    chosen = ("--classes", "7,1,4", "--limit", "60", "--device", "cpu")
    run = ("train", *NET, *chosen, "--epochs", "0", "--out", tmp_path / "run", "--json")
    assert main([*map(str, run)]) == 0
    trained = json.loads(capsys.readouterr().out)["data"]
    args = ("eval", tmp_path / "run", "--data", "digits", *chosen, "--json")
    assert main([*map(str, args)]) == 0
    measured = json.loads(capsys.readouterr().out)["data"]
    assert measured["fingerprint"] == trained["fingerprint"]
    assert any("only the classes 7, 1, 4 (3 of 10)" in note for note in measured["notes"])


def test_an_unknown_class_is_refused_before_anything_is_trained(tmp_path, capsys):
    run = ("train", *NET, "--classes", "7,seven,1", "--out", tmp_path / "run")
    assert main([*map(str, run)]) == 2
    err = capsys.readouterr().err
    assert "no class 'seven'" in err
    assert "0, 1, 2" in err
    assert not (tmp_path / "run").exists()
