"""`bnnkit avo-toy` as a user runs it."""

from __future__ import annotations

import json

import pytest

from bnnkit.__main__ import main
from bnnkit.cli.avo_toy import EXAMPLE

QUICK = [
    *("--steps", "15", "--batch-size", "32", "--transitions", "3", "--hidden", "8"),
    *("--samples", "1000", "--method", "elbo", "--method", "avo"),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_a_run_prints_what_the_example_shows(capsys):
    assert main(["avo-toy", "d", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert "training avo with biased noise" in err
    shown = [line.split() for line in EXAMPLE.splitlines()]
    for line in out.splitlines():
        if not any(c.isdigit() for c in line):
            assert line.split() in shown
    assert out.rstrip().endswith("Run directory: avo-toy-d")


def test_json_and_refusals(capsys):
    assert main(["avo-toy", "a", *QUICK, "--bias", "0", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["robustness"] == []
    assert body["method"]["config"]["methods"] == ["elbo", "avo"]
    assert main(["avo-toy", "d", "--method", "avoelbo"]) == 2
    assert "Did you mean 'avo+elbo'" in capsys.readouterr().err
    assert main(["avo-toy", "e", "--spacing", "2"]) == 2
    assert "only energy d" in capsys.readouterr().err
