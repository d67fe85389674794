"""`bnnkit prune` on the command line: options, exit codes, interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bnnkit.cli.errors import main

RANDOM = ["--arch", "bnnkit:digits-cnn", "--data", "digits", "--limit", "200", "--epochs", "0",
          "--removal-seed", "1", "--bench-batch", "1", "--no-onnx", "--no-pt2"]  # fmt: skip


def test_json_is_all_that_goes_to_stdout(tmp_path, capsys):
    assert main(["prune", *RANDOM, "--out", str(tmp_path / "run"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["command"] == "prune"
    assert "proving" in printed.err


def test_gates_decide_the_exit_code_and_are_published(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    out, junit = tmp_path / "run", tmp_path / "junit.xml"
    code = main(["prune", *RANDOM, "--out", str(out), "--min-mac-ratio", "1000",
                 "--junit", str(junit)])  # fmt: skip
    assert code == 3
    assert "Run directory" in capsys.readouterr().out
    assert "<failure" in junit.read_text()
    assert "min-mac-ratio" in (tmp_path / "summary.md").read_text()
    assert json.loads((out / "report.json").read_text())["gates"][0]["verdict"] == "fail"


def test_a_dry_run_is_not_judged(tmp_path, capsys):
    junit = tmp_path / "junit.xml"
    code = main(["prune", *RANDOM, "--dry-run", "--min-mac-ratio", "1000", "--junit", str(junit)])
    assert code == 0
    assert "Run directory" not in capsys.readouterr().out
    assert not junit.exists()


def test_a_gate_without_its_figure_leaves_one_document_on_stdout(tmp_path, capsys, monkeypatch):
    from bnnkit.run import gates

    monkeypatch.setattr(gates, "_exports", lambda checks: [])
    code = main(["prune", *RANDOM, "--out", str(tmp_path / "run"), "--json",
                 "--max-export-diff", "1"])  # fmt: skip
    assert code == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["gates"][0]["verdict"] == "missing"
    assert "--max-export-diff" in printed.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["prune", "--arch", "bnnkit:digits-cnn"], "--data digits"),
        (["prune", *RANDOM, "--kl-scale", "x"], "at least 0"),
        (["prune", *RANDOM, "--kl-scale", "nope*=3"], "no removable layer matches"),
        (["prune", *RANDOM, "--lr", "nan"], "--lr"),
        (["prune", *RANDOM, "--method", "spb"], "Did you mean 'sbp'?"),
        (["prune", *RANDOM, "--exclude", "**"], "no removable channel class"),
        (["prune", "nothing.pt", *RANDOM], "no such file"),
        (["prune", *RANDOM, "--input-shape", "3,8,8", "--data", "digits"], "channels"),
    ],
)
def test_refusals_are_one_message_and_exit_2(args, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    printed = capsys.readouterr()
    assert words in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_classes_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--arch", "bnnkit:digits-cnn", "--data", "digits", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "conv1" in shown
    assert "% of 58,474 parameters" in shown
    assert "kept" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_interrupted_is_130_and_resumes_to_the_same_plan(tmp_path):
    args = [sys.executable, "-m", "bnnkit", "prune", "--arch", "bnnkit:digits-cnn",
            "--data", "digits", "--epochs", "6", "--kl-scale", "20", "--noise-lr", "5e-2",
            "--bench-batch", "1", "--no-onnx", "--no-pt2", "--threads", "1"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*args, "--out", str(tmp_path / "whole")], check=True, env=env, **quiet)
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        [*args, "--out", str(broken)],
        env=env,
        # Where the tests run in the background, the shell has told children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **quiet,
    )
    metrics = broken / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err
    assert not (broken / "report.json").exists()
    subprocess.run([*args, "--out", str(broken), "--resume"], check=True, env=env, **quiet)
    plans = [(tmp_path / name / "plan.json").read_text() for name in ("whole", "broken")]
    assert plans[0] == plans[1]
    rows = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5, 6]
