"""`bnnkit train` of what makes images, as it is typed."""

import json

from bnnkit.cli.errors import main

ARGS = ["--arch-arg", "hidden=16", "--arch-arg", "out_features=64", "--input-shape", "1,8,8",
        "--data", "digits", "--limit", "100", "--threads", "1"]  # fmt: skip


def test_a_generator_is_trained_at_its_own_rate(tmp_path, capsys):
    out = tmp_path / "g"
    command = ["train", "--arch", "bnnkit:mlp-gan-generator", *ARGS, "--epochs", "1"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"]["config"]["lr"] == 2e-4
    assert main([*command, "--out", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--out", str(out), "--force", "--lr", "1e-3"]) == 0
    text = capsys.readouterr().out
    assert "normal:64" in text
    assert "1x8x8" in text
    assert json.loads((out / "report.json").read_text())["method"]["config"]["lr"] == 1e-3


def test_an_autoencoder_shows_its_bound(tmp_path, capsys):
    command = ["train", "--arch", "bnnkit:vae-mnist", "--arch-arg", "in_features=64", "--data",
               "digits", "--input-shape", "1,8,8", "--epochs", "1", "--threads", "1"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "v")]) == 0
    text = capsys.readouterr().out
    assert "bound on log p(x)" in text
    assert "pixels are drawn as 0 or 1" in text


def test_a_classifier_is_trained_as_before(tmp_path, capsys):
    command = ["train", "--arch", "bnnkit:digits-cnn", "--data", "digits", "--limit", "200",
               "--epochs", "1", "--threads", "1", "--json"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "c")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"]["config"]["lr"] == 1e-3
    assert "error" in report["slim"]
    assert "generator" not in report
