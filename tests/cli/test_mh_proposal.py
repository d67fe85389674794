"""`bnnkit mh-proposal` as a user runs it."""

from __future__ import annotations

import json

import pytest

from bnnkit.__main__ import main

QUICK = [
    *("--steps", "40", "--walk-steps", "150", "--training-chains", "64", "--chains", "32"),
    *("--draws", "200"),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_a_run_prints_figures_and_a_verdict(capsys):
    assert main(["mh-proposal", "mixture6", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("bnnkit mh-proposal: mixture6")
    for words in (
        "Chains under the frozen proposal",
        "R-hat, largest",
        "6 of 6 modes",
        "Checked:",
    ):
        assert words in out
    assert out.rstrip().endswith("Run directory: mixture6-mh-proposal")
    assert "training the proposal" in err


def test_one_mode_of_six_fails_the_gate_and_is_not_called_good(capsys):
    args = ["mh-proposal", "mixture6", *QUICK, "--family", "diagonal", "--objective", "vi"]
    code = main([*args, "--lr", "0.1", "--steps", "400", "--max-rhat", "1.01", "--json"])
    body = json.loads(capsys.readouterr().out)
    assert code == 3
    assert body["gates"][0]["verdict"] == "fail"
    assert body["good"] is False
    assert body["verdict"][0].startswith("Not good")


def test_acceptance_alone_is_refused(capsys):
    assert main(["mh-proposal", "mixture6", "--min-acceptance", "0.4"]) == 2
    assert "Add --max-rhat 1.01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x.sum(1) * float('nan')", "with a finite log density"),
        ("-x ** 2", "shape [64, 2]; shape [64] is expected"),
        ("x[:, 0] + float('inf')", "an infinite log density"),
        ("-(x.detach() ** 2).sum(1)", "without a gradient"),
        ("x @ torch.ones(3)", "t.py:3: RuntimeError"),
    ],
)
def test_densities_that_are_none(tmp_path, capsys, body, words):
    code = f"import torch\ndef log_prob(x):\n    return {body}\n"
    (tmp_path / "t.py").write_text(code, encoding="utf-8")
    assert main(["mh-proposal", "t.py:log_prob", "--dim", "2", *QUICK]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert not (tmp_path / "t-mh-proposal").exists()
