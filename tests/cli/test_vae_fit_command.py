"""The command `vae-fit`: its options reach the run, and its answer is a table or JSON."""

import json

import pytest

from bnnkit.__main__ import main

NET = ["--arch", "bnnkit:vae-mnist", "--arch-arg", "latent=4", "--arch-arg", "hidden=16",
       "--arch-arg", "in_features=64", "--input-shape", "1,8,8"]  # fmt: skip
DATA = ["--data", "digits", "--limit", "150"]
QUICK = ["--epochs", "1", "--threads", "1", "--device", "cpu", "--nll-samples", "5"]


def test_it_trains_and_tells(tmp_path, capsys):
    out = str(tmp_path / "run")
    args = ["vae-fit", *NET, *DATA, *QUICK, "--posterior", "mn:2x2", "--out", out]
    assert main(args) == 0
    told = capsys.readouterr().out
    assert "Evidence lower bound" in told
    assert "mn:2x2" in told
    assert f"Run directory: {out}" in told
    again = ["vae-fit", "--init", out, *DATA, *QUICK, "--freeze", "decoder", "--posterior", "full",
             "--out", str(tmp_path / "full"), "--json"]  # fmt: skip
    assert main(again) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["method"]["config"]["freeze"] == "decoder"
    assert body["training"]["posterior"] == "full"
    assert "before" in body


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--posterior", "mn:4"], "rows and columns"),
        (["--objective", "avo"], "hvi"),
        (["--init", "other", "first"], "both say"),
        (["--binarise", "sometimes"], "--binarise"),
    ],
)
def test_refusals(capsys, options, word):
    assert main(["vae-fit", *NET, *DATA, *options]) == 2
    assert word in capsys.readouterr().err
