"""Gates: the verdict follows the bounds; what cannot be judged is said; the CI files are valid."""

from __future__ import annotations

import itertools
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bnnkit.errors import ExitCode, UsageError
from bnnkit.run.gates import exit_code, judge, missing_error, refuse_unmeasured
from bnnkit.run.provenance import collect_provenance, cpu_model, public_argv
from bnnkit.run.reporting.junit import to_junit
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.spec.gates import GateOptions, parse_setting
from bnnkit.spec.report import Quantity, Report


def rise(value, low, high):
    return Report("prune", {}, {"paired": {"error_rise": Quantity(value, "points", 9, low, high)}})


def row(threads, batch, speedup, low, high, runtime="torch"):
    return {
        "runtime": runtime,
        "device": "cpu",
        "threads": threads,
        "batch": batch,
        "models": [
            {"name": "original", "latency": Quantity(1, "ms", 9, 1, 1)},
            {"name": "slim", "speedup": Quantity(speedup, "x", 9, low, high)},
        ],
    }


def verdict(report, **limits):
    return judge(report, GateOptions(**limits)).rows[0]["verdict"]


def test_every_order_of_bounds_and_limit_against_the_definition():
    points = (-1.0, 0.0, 0.5, 1.0, 2.0)
    for low, high, limit in itertools.product(points, points, (0.0, 0.5, 1.0)):
        if low > high:
            continue
        inside = [low + (high - low) * i / 64 for i in range(65)]
        good = [x <= limit for x in inside]
        expected = "pass" if all(good) else "inconclusive" if any(good) else "fail"
        assert verdict(rise((low + high) / 2, low, high), max_error_rise=limit) == expected
        report = Report("prune", {}, {"latency": [row(1, 1, (low + high) / 2, low, high)]})
        good = [x >= limit for x in inside]
        expected = "pass" if all(good) else "inconclusive" if any(good) else "fail"
        assert verdict(report, min_speedup=limit) == expected


def test_a_fall_can_be_demanded():
    assert verdict(rise(-0.5, -0.8, -0.2), max_error_rise=-0.2) == "pass"
    assert verdict(rise(0.0, -0.1, 0.1), max_error_rise=-0.2) == "fail"


@pytest.mark.parametrize(("ratio", "expected"), [(2.0, "pass"), (1.9999, "fail"), (3, "pass")])
def test_exact_figures_pass_or_fail(ratio, expected):
    for node in (ratio, {"value": ratio, "unit": "x"}):
        report = Report("prune", {}, {"ratios": {"macs": node}})
        assert verdict(report, min_mac_ratio=2) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"value": 0.1, "unit": "points", "n": 5}, "inconclusive"),
        ({"value": 0.1, "unit": "points", "n": 5, "high": 0.4}, "pass"),
        ({"value": 0.1, "unit": "points", "n": 5, "low": 0.0}, "inconclusive"),
        ({"value": 0.9, "unit": "points", "n": 5, "low": 0.6}, "fail"),
        ({"value": 0.1, "unit": "points", "n": 5, "low": None, "high": None}, "inconclusive"),
        ({"value": None, "unit": "points", "n": 5}, "fail"),
        ({"value": math.nan, "unit": "points"}, "fail"),
        ({"value": math.inf, "unit": "points"}, "fail"),
        ({"value": "0.1", "unit": "points"}, "fail"),
        ({"value": True, "unit": "points"}, "fail"),
        ({"value": 10**400, "unit": "points"}, "fail"),
        ({"unit": "points"}, "missing"),
        ("0.1", "missing"),
        (None, "missing"),
    ],
)
def test_estimates_without_bounds_and_figures_that_are_no_numbers(node, expected):
    report = Report("prune", {}, {"paired": {"error_rise": node}})
    assert verdict(report, max_error_rise=0.5) == expected


def test_a_nan_survives_json_as_a_failure():
    before = Report("eval", {}, {"slim": {"nll": Quantity(math.nan, "nats", 9, math.nan)}})
    after = Report.from_json(before.to_json())
    assert verdict(before, max_nll=1) == verdict(after, max_nll=1) == "fail"


def test_the_worst_setting_is_judged_and_named():
    latency = [row(1, 1, 1.7, 1.65, 1.75), row(2, 8, 1.6, 1.4, 1.8), row(2, 1, 1.55, 1.52, 1.58)]
    found = judge(Report("bench", {}, {"latency": latency}), GateOptions(min_speedup=1.5)).rows[0]
    assert found["verdict"] == "inconclusive"
    assert found["note"] == "torch, cpu, 2 threads, batch 8"
    assert (found["value"], found["low"], found["high"]) == (1.6, 1.4, 1.8)
    latency.append(row(1, 1, math.nan, 1.9, 2.0, "onnxruntime"))
    found = judge(Report("bench", {}, {"latency": latency}), GateOptions(min_speedup=1.5)).rows[0]
    assert (found["verdict"], found["value"]) == ("fail", None)
    assert found["note"] == "onnxruntime, cpu, 1 thread, batch 1"


def test_the_speedup_can_be_asked_at_one_setting():
    latency = [row(1, 1, 2.0, 1.9, 2.1), row(2, 8, 1.1, 1.0, 1.2)]
    report = Report("bench", {}, {"latency": latency})
    at = GateOptions(min_speedup=1.5, speedup_at="threads=1, runtime=Torch")
    assert judge(report, at).exit_code == ExitCode.OK
    with pytest.raises(UsageError, match=r"threads=4.*torch, cpu, 1 thread, batch 1; torch"):
        judge(report, GateOptions(min_speedup=1.5, speedup_at="threads=4"))


def test_every_model_but_the_reference_is_judged():
    both = row(1, 1, 2.0, 1.9, 2.1)
    both["models"].append({"name": "third", "speedup": Quantity(0.9, "x", 9, 0.8, 1.0)})
    found = judge(Report("bench", {}, {"latency": [both]}), GateOptions(min_speedup=1.5)).rows[0]
    assert found["verdict"] == "fail"
    assert found["note"].startswith("third: ")


def test_a_bench_of_one_model_has_no_speedup():
    one = row(1, 1, 2.0, 1.9, 2.1)
    del one["models"][1]
    assert verdict(Report("bench", {}, {"latency": [one]}), min_speedup=1) == "missing"


def test_the_export_gate_takes_the_worst_written_form():
    checks = [
        {"name": "gated = slim (float64)", "worst": 0.5, "unit": "relative"},
        {"name": "pt2", "worst": 1e-7, "unit": "relative"},
        {"name": "onnx", "worst": 1e-5, "unit": "relative"},
    ]
    report = Report("prune", {}, {"checks": checks})
    found = judge(report, GateOptions(max_export_diff=1e-5)).rows[0]
    assert (found["verdict"], found["note"]) == ("pass", "onnx")
    assert verdict(report, max_export_diff=9e-6) == "fail"
    checks[1]["worst"] = math.nan
    found = judge(report, GateOptions(max_export_diff=1)).rows[0]
    assert (found["verdict"], found["note"]) == ("fail", "pt2")
    assert verdict(Report("prune", {}, {"checks": checks[:1]}), max_export_diff=1) == "missing"


def test_an_eval_report_answers_only_what_it_measured():
    report = Report("eval", {}, {"slim": {"error": Quantity(8.0, "%", 9, 7.5, 8.5)}})
    result = judge(report, GateOptions(max_error=9, max_error_rise=1, min_speedup=1.5))
    assert [r["verdict"] for r in result.rows] == ["missing", "pass", "missing"]
    assert result.exit_code == ExitCode.USAGE
    text = str(missing_error(result.rows))
    for part in ("--max-error-rise", "'paired'", "--against", "--min-speedup", "'bnnkit bench'"):
        assert part in text
    assert missing_error(result.rows[1:2]) is None


def test_gates_that_a_run_will_not_answer_are_refused_before_it():
    refuse_unmeasured(GateOptions(max_ece=3), {"slim"})
    with pytest.raises(UsageError, match="--min-mac-ratio needs the section 'ratios'"):
        refuse_unmeasured(GateOptions(max_ece=3, min_mac_ratio=2), {"slim", "latency"})


def test_a_figure_in_another_unit_is_not_compared():
    report = Report("eval", {}, {"slim": {"error": Quantity(0.08, "fraction", 9, 0.07, 0.09)}})
    with pytest.raises(UsageError, match=r"'fraction'.*'%'"):
        judge(report, GateOptions(max_error=9))


@pytest.mark.parametrize(
    ("verdicts", "strict", "code"),
    [
        ([], False, 0),
        (["pass"], True, 0),
        (["pass", "inconclusive"], False, 0),
        (["pass", "inconclusive"], True, 5),
        (["inconclusive", "fail"], True, 3),
        (["fail", "missing"], False, 2),
    ],
)
def test_exit_codes(verdicts, strict, code):
    assert exit_code([{"verdict": v} for v in verdicts], strict=strict) == code


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [[]], [{}], [{"models": 3}]])
def test_malformed_sections_count_as_missing(junk):
    body = dict.fromkeys(("paired", "slim", "ratios", "latency", "checks"), junk)
    options = GateOptions(max_error_rise=1, max_ece=1, min_speedup=1, max_export_diff=1)
    result = judge(Report("prune", {}, body), options)
    assert {r["verdict"] for r in result.rows} == {"missing"}


@pytest.mark.parametrize(
    "limits",
    [
        {"max_error": math.nan},
        {"min_speedup": math.inf},
        {"max_ece": -1},
        {"speedup_at": "batch=1"},
        {"min_speedup": 1, "speedup_at": "batch"},
        {"min_speedup": 1, "speedup_at": "bach=1"},
        {"min_speedup": 1, "speedup_at": "batch=1,batch=8"},
        {"min_speedup": 1, "speedup_at": ""},
    ],
)
def test_impossible_limits_are_refused(limits):
    with pytest.raises(UsageError):
        GateOptions(**limits)


def test_a_setting_with_a_near_miss():
    with pytest.raises(UsageError, match="Did you mean 'batch'"):
        parse_setting("bach=1")


def rows_of_each_verdict():
    body = {
        "paired": {"error_rise": Quantity(0.1, "points", 9, 0.0, 0.2)},
        "slim": {"ece": Quantity(3, "%", 9, 2, 4), "nll": Quantity(1, "nats", 9, 0.9, 1.1)},
    }
    options = GateOptions(max_error_rise=0.2, max_nll=0.5, max_ece=3, min_mac_ratio=2)
    return judge(Report("prune", {}, body), options).rows


@pytest.mark.parametrize("strict", [False, True])
def test_junit_counts_what_it_holds(strict):
    root = ET.fromstring(to_junit(rows_of_each_verdict(), strict=strict).encode())
    suite = root.find("testsuite")
    cases = {case.get("name"): case for case in suite}
    for element in (root, suite):
        assert element.get("tests") == "4"
        assert element.get("failures") == str(len(suite.findall(".//failure"))) == str(1 + strict)
        assert element.get("skipped") == str(len(suite.findall(".//skipped"))) == str(1 - strict)
        assert element.get("errors") == str(len(suite.findall(".//error"))) == "1"
    assert cases["max-error-rise"].find("failure") is None
    message = cases["max-nll"].find("failure").get("message")
    assert "at most 0.5 nats, measured 1.00 nats [0.90, 1.10]" in message


def test_junit_is_valid_with_hostile_names():
    rows = [{"gate": "<&\"'\x00\x1b]]>", "limit": 1, "verdict": "fail", "note": "\ud800\x07"}]
    text = to_junit(rows, strict=False, name='a"<\x00')
    ET.fromstring(text.encode("utf-8"))


def test_the_summary_is_one_table_row_a_gate_and_cannot_be_broken_out_of():
    report = Report("prune", {}, {"model": {"file": "a|b<script>\n# @me http://x [l](u)"}})
    report.gates = [{**rows_of_each_verdict()[0], "note": "x|y"}, *rows_of_each_verdict()[1:]]
    text = to_markdown(report)
    title, *rest = text.splitlines()
    assert title.startswith("## bnnkit prune: ")
    for raw in ("<script", "|b", "@me", "http://", "[l]"):
        assert raw not in title.replace("\\|b", "").replace("\\<script", "").replace("\\[l", "")
    table = [line.replace("\\|", "") for line in rest if line.startswith("|")]
    assert len(table) == 2 + 4
    assert {line.count("|") for line in table} == {6}
    assert "❌ fail" in text


def test_provenance_names_neither_host_nor_user(tmp_path):
    home = Path("/home/ada")
    argv = ["/home/ada/bin/bnnkit", "prune", "/home/ada/m.pt", "--out=/home/ada", "/home/adam/x"]
    assert public_argv(argv, home) == ["bnnkit", "prune", "~/m.pt", "--out=~", "/home/adam/x"]
    found = collect_provenance(["bnnkit", "eval"], seed=3)
    assert found["seed"] == 3
    assert found["threads"] >= 1
    assert found["versions"]["torch"]
    assert found["seconds"] >= 0
    assert set(found["hardware"]) <= {"cpu", "cores", "system", "gpu", "cuda"}
    json.dumps(found)
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Chip @ 2 GHz\n")
    assert cpu_model(info) == "A Chip @ 2 GHz"
    assert cpu_model(tmp_path / "absent")
