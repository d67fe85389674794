"""Reports for a person: what stands in the tables, and that a log gets plain lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bnnkit.cli.tables import render, render_gates
from bnnkit.spec.report import Quantity, Report


def text(report, *, terminal=False, width=80, draw=render):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None)
    draw(report, console)
    return stream.getvalue()


def quality(error, low, high):
    return {
        "error": Quantity(error, "%", 10000, low, high),
        "nll": Quantity(0.3, "nats", 10000, 0.28, 0.32),
        "parameters": 272474,
        "macs": 40_551_424,
        "file_bytes": 1_091_532,
    }


@pytest.fixture
def pruned():
    models = [
        {"name": "original", "latency": Quantity(2.0, "ms", 200, 1.95, 2.05)},
        {
            "name": "slim",
            "latency": Quantity(1.0, "ms", 200, 0.95, 1.05),
            "speedup": Quantity(2.0, "x", 200, 1.9, 2.1),
        },
    ]
    slim = {**quality(8.6, 8.05, 9.16), "parameters": 84065, "macs": 12_511_000}
    return Report(
        "prune",
        {},
        {
            "model": {"file": "net.th"},
            "original": quality(8.27, 7.73, 8.81),
            "slim": slim,
            "paired": {"error_rise": Quantity(0.33, "points", 10000, 0.05, 0.63)},
            "ratios": {"parameters": 3.2413, "macs": 3.2413, "file": 0.5},
            "latency": [
                {"runtime": "torch", "device": "cpu", "threads": 1, "batch": 8, "models": models}
            ],
            "classes": [
                {"name": "conv1", "size": 16, "kept": 5},
                {"name": "conv2", "size": 32, "kept": 32},
            ],
            "locked": [
                {"name": f"block.{i}", "channels": 8, "reason": "an unknown operator"}
                for i in range(5)
            ],
            "checks": [
                {
                    "name": "onnx",
                    "worst": 1.4e-6,
                    "tolerance": 1e-4,
                    "unit": "relative",
                    "n": 64,
                    "passed": True,
                }
            ],
        },
        [{"gate": "max-ece", "limit": 2.0, "unit": "%", "value": 2.5, "verdict": "fail"}],
    )


def line(lines, start):
    return " ".join(next(row for row in lines if row.strip().startswith(start)).split())


def test_every_number_has_unit_interval_and_n(pruned):
    lines = text(pruned).splitlines()
    assert line(lines, "error") == (
        "error 8.27 % [7.73, 8.81] 8.60 % [8.05, 9.16] +0.33 points [+0.05, +0.63] 10,000"
    )
    assert line(lines, "parameters") == "parameters 272,474 84,065 3.24x fewer exact"
    assert line(lines, "MACs") == "MACs 40.55 M MACs 12.51 M MACs 3.24x fewer exact"
    assert line(lines, "file size") == "file size 1.092 MB 1.092 MB 2.00x larger exact"
    assert line(lines, "torch, cpu") == (
        "torch, cpu, 1 thread, batch 8 2.000 ms [1.950, 2.050] 1.000 ms [0.950, 1.050] "
        "2.00x [1.90, 2.10] 200"
    )
    assert line(lines, "conv1") == "conv1 16 → 5 31%"
    assert line(lines, "conv2") == "conv2 32 100%"
    assert line(lines, "block.0") == "block.0, block.1, block.2 and 2 more 40 an unknown operator"
    assert line(lines, "onnx") == "onnx 1.4e-06 0.0001 relative 64 pass"
    assert line(lines, "max-ece") == "max-ece ≤ 2 % 2.5 % fail"


def test_a_log_gets_neither_boxes_nor_escapes_nor_broken_lines(pruned):
    out = text(pruned, width=20)
    assert "\x1b" not in out
    assert not any(0x2500 <= ord(c) <= 0x257F for c in out)
    assert out == text(pruned, width=200)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_never_loses_a_figure(pruned, width):
    shown = text(pruned, terminal=True, width=width)
    squeezed = "".join(shown.split())
    for part in ("8.27 %", "[7.73, 8.81]", "+0.33 points", "[+0.05, +0.63]", "2.00x", "exact"):
        assert part.replace(" ", "") in squeezed


def test_the_verdicts_come_last(pruned):
    out = text(pruned)
    assert out.index("Units kept") < out.index("Original against slim") < out.index("Gates")
    assert text(pruned, draw=render_gates).startswith("Gates")


def test_an_eval_report_has_one_column_of_values():
    lines = text(Report("eval", {}, {"slim": quality(8.1, 7.6, 8.7)})).splitlines()
    assert line(lines, "error") == "error 8.10 % [7.60, 8.70] 10,000"
    assert not any("original" in row for row in lines)


def test_a_bench_of_three_names_each_model():
    models = [{"name": name, "latency": Quantity(1, "ms", 5, 0.9, 1.1)} for name in "abc"]
    latency = [{"runtime": "torch", "threads": 2, "batch": 1, "models": models}]
    lines = text(Report("bench", {}, {"latency": latency})).splitlines()
    assert sum("1.00 ms [0.90, 1.10]" in row for row in lines) == 3
    assert sum("reference" in row for row in lines) == 1


def test_a_training_curve_tells_first_best_and_last():
    curve = [{"epoch": e, "loss": 3.0 - e, "error": abs(e - 2), "seconds": 2} for e in (1, 2, 3)]
    lines = text(Report("train", {}, {"curve": curve})).splitlines()
    assert line(lines, "first") == "first 1 2 1 %"
    assert line(lines, "best") == "best 2 1 0 %"
    assert line(lines, "last") == "last 3 0 1 %"
    assert any("3 epochs, 6 s." in row for row in lines)


def test_a_deep_network_shows_what_lost_the_most():
    classes = [{"name": f"c{i}", "size": 500, "kept": 500 - i} for i in range(100)]
    out = text(Report("prune", {}, {"classes": classes}))
    assert "c99 " in out
    assert "c59 " not in out
    assert "100 classes, 50,000 → 45,050 units." in out
    assert "60 more are in the report" in out


@pytest.mark.parametrize("terminal", [False, True])
def test_names_reach_no_terminal_as_escapes_or_markup(terminal):
    evil = "[red]x[/red]\x1b[2J\r\n:smile: \u202e"
    report = Report(
        "prune",
        {},
        {
            "model": {"file": evil},
            "classes": [{"name": evil, "size": 2, "kept": 1}],
            "locked": [{"name": evil, "reason": evil}],
            "checks": [{"name": evil}],
        },
    )
    out = text(report, terminal=terminal, width=200)
    assert "[red]x[/red]" in out
    assert ":smile:" in out
    assert "\x1b[2J" not in out
    assert "\u202e" not in out
    assert "\r" not in out


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [{}], {"error": None}])
@pytest.mark.parametrize("terminal", [False, True])
def test_malformed_sections_are_survived(junk, terminal):
    names = ("slim", "original", "paired", "ratios", "latency", "classes", "locked", "checks")
    text(Report("prune", {}, dict.fromkeys((*names, "curve", "model"), junk)), terminal=terminal)
