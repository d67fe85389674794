"""`bnnkit gate`: exit codes, JSON, the files for a CI system, and refusals in one sentence."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
import typer
from typer.testing import CliRunner

from bnnkit.cli.errors import main
from bnnkit.cli.gate import gate, read_report
from bnnkit.errors import UsageError
from bnnkit.spec.report import Quantity, Report

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(gate)


@pytest.fixture
def run_dir(tmp_path):
    sections = {
        "slim": {"ece": Quantity(2.1, "%", 9, 1.7, 2.5)},
        "paired": {"error_rise": Quantity(0.3, "points", 9, 0.1, 0.5)},
        "ratios": {"macs": 2.5},
    }
    (tmp_path / "report.json").write_text(Report("prune", {}, sections).to_json())
    return tmp_path


def call(*args, **env):
    return CliRunner().invoke(app, [str(a) for a in args], env={"GITHUB_STEP_SUMMARY": None} | env)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--max-error-rise", "0.5", "--min-mac-ratio", "2"], 0),
        (["--max-error-rise", "0.05"], 3),
        (["--max-error-rise", "-0.5"], 3),
        (["--max-ece", "2"], 0),
        (["--max-ece", "2", "--strict"], 5),
        (["--max-ece", "2", "--strict", "--max-error-rise", "0"], 3),
    ],
)
def test_exit_codes(run_dir, options, code):
    assert call(run_dir, *options).exit_code == code
    assert call(run_dir / "report.json", *options).exit_code == code


def test_a_missing_figure_says_what_measures_it(run_dir):
    result = call(run_dir, "--min-speedup", 1.5)
    assert isinstance(result.exception, UsageError)
    assert "'bnnkit bench'" in str(result.exception)
    assert result.exception.code == 2


def test_no_gate_is_no_pass(run_dir):
    assert "no gate" in str(call(run_dir).exception)
    assert isinstance(call(run_dir, "--strict").exception, UsageError)


def test_json_holds_the_rows_and_the_code(run_dir):
    result = call(run_dir, "--max-ece", 2, "--strict", "--json")
    body = json.loads(result.stdout)
    assert body["exit_code"] == result.exit_code == 5
    assert body["gates"][0] == {
        "gate": "max-ece",
        "limit": 2.0,
        "unit": "%",
        "value": 2.1,
        "low": 1.7,
        "high": 2.5,
        "verdict": "inconclusive",
    }


def test_the_files_for_a_ci_system(run_dir):
    junit, summary = run_dir / "out" / "gates.xml", run_dir / "summary.md"
    summary.write_text("before\n")
    args = (run_dir, "--max-error-rise", "0.05", "--junit", junit)
    result = call(*args, GITHUB_STEP_SUMMARY=str(summary))
    assert result.exit_code == 3
    suite = ET.parse(junit).getroot().find("testsuite")
    assert (suite.get("name"), suite.get("failures")) == ("bnnkit prune", "1")
    assert summary.read_text().startswith("before\n## bnnkit prune")


def test_files_that_cannot_be_written_are_named(run_dir):
    result = call(run_dir, "--max-ece", 5, "--junit", run_dir)
    assert isinstance(result.exception, UsageError)
    assert str(run_dir) in str(result.exception)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe\x00",
        b'{"command": "prune", "schema": 99}',
        b'{"command": "prune", "schema": 1, "provenance": 3}',
        b'{"command": "prune", "schema": 1, "gates": 3}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content):
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(UsageError):
        read_report(file)


def test_a_report_that_is_absent(tmp_path):
    with pytest.raises(UsageError, match=r"report\.json.*No such file"):
        read_report(tmp_path)


def test_a_missing_figure_leaves_one_document_on_stdout(run_dir, capsys):
    assert main(["gate", str(run_dir), "--min-speedup", "1.5", "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["gates"][0]["verdict"] == "missing"
    assert "--min-speedup" in printed.err
