"""The HTML report: every section, escaped names, nothing from a network, legible when large."""

from __future__ import annotations

import math
import random
import re

import pytest

from bnnkit.run.reporting.html import command_line, render_html
from bnnkit.run.reporting.plots import curve_panel, snr_histogram, snr_range
from bnnkit.spec.report import Quantity, Report


def figure(value, unit, half, n=10000):
    return {
        "value": value,
        "unit": unit,
        "n": n,
        "low": value - half,
        "high": value + half,
        "level": 0.95,
    }


def channel_classes(names, sizes, seed):
    draw = random.Random(seed)
    out = []
    for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
        share = 0.25 + 0.6 * draw.random()
        snr = [
            math.exp(draw.gauss(4, 1.2)) if draw.random() < share else draw.uniform(0.2, 0.95)
            for _ in range(size)
        ]
        kept = sum(s >= 1 for s in snr)
        out.append(
            {
                "name": name,
                "size": size,
                "kept": kept,
                "writers": [name],
                "readers": [f"layer{i}.next"],
                "snr": snr,
                "theta": [min(1.0, s / 50) for s in snr],
            }
        )
    return out


def latency():
    rows = []
    for runtime in ("torch", "onnxruntime"):
        for threads in (1, 2):
            for batch in (1, 8, 64):
                ms = (1.2 + 0.9 * batch) / threads * (0.6 if runtime == "onnxruntime" else 1.0)
                ratio = 1.2 + 0.2 * math.log2(batch + 1) / 2
                rows.append(
                    {
                        "runtime": runtime,
                        "device": "cpu",
                        "threads": threads,
                        "batch": batch,
                        "models": [
                            {"name": "original", "latency": figure(ms, "ms", ms * 0.03, 200)},
                            {
                                "name": "slim",
                                "latency": figure(ms / ratio, "ms", ms / ratio * 0.04, 200),
                                "speedup": figure(ratio, "x", 0.06, 200),
                            },
                        ],
                    }
                )
    return rows


def prune_report(classes, arch, locked):
    before = sum(c["size"] for c in classes) * 3000
    after = sum(c["kept"] for c in classes) * 2500
    return Report.from_json(
        Report(
            command="prune",
            provenance={
                "versions": {"bnnkit": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
                "argv": ["bnnkit", "prune", "~/models/my net.th", "--arch", arch],
                "seed": 0,
                "device": "cpu",
                "threads": 2,
                "hardware": {"cpu": "An Example Processor at 2.00 GHz", "cores": 2},
                "started": "2026-01-31T10:00:00+00:00",
                "seconds": 1843.2,
            },
            sections={
                "model": {
                    "file": "my net.th",
                    "arch": arch,
                    "notes": ["Took 'state_dict' of 4 entries; stripped 'module.' from 121 keys."],
                },
                "data": {
                    "name": "cifar10",
                    "fingerprint": "sha256:5f1c0a",
                    "n_train": 50000,
                    "n_test": 10000,
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                    "notes": [],
                },
                "method": {"name": "sbp", "config": {"epochs": 20, "lr": 1e-4, "kl_scale": 5.0}},
                "original": {
                    "error": figure(8.27, "%", 0.54),
                    "nll": figure(0.3371, "nats", 0.021),
                    "ece": figure(4.02, "%", 0.4),
                    "brier": figure(0.1302, "", 0.007),
                    "parameters": before // 10,
                    "macs": before * 13,
                    "file_bytes": before // 2,
                },
                "slim": {
                    "error": figure(8.61, "%", 0.55),
                    "nll": figure(0.2914, "nats", 0.017),
                    "ece": figure(2.11, "%", 0.4),
                    "brier": figure(0.1279, "", 0.006),
                    "parameters": after // 10,
                    "macs": after * 13,
                    "file_bytes": after // 2,
                },
                "paired": {
                    "error_rise": figure(0.34, "points", 0.29),
                    "nll_rise": figure(-0.0457, "nats", 0.011),
                    "ece_rise": figure(-1.91, "points", 0.35),
                    "brier_rise": figure(-0.0023, "", 0.0031),
                },
                "ratios": dict.fromkeys(("parameters", "macs", "file"), before / after),
                "latency": latency(),
                "classes": classes,
                "locked": locked,
                "layers": [
                    {
                        "name": c["name"],
                        "kind": "Conv2d",
                        "before": [c["size"], 16],
                        "after": [c["kept"], 12],
                        "macs_before": c["size"] * 147456,
                        "macs_after": c["kept"] * 110592,
                        "parameters_before": c["size"] * 144,
                        "parameters_after": c["kept"] * 108,
                    }
                    for c in classes
                ],
                "checks": [
                    {
                        "name": name,
                        "worst": worst,
                        "tolerance": tolerance,
                        "unit": "relative",
                        "n": 64,
                        "passed": True,
                    }
                    for name, worst, tolerance in (
                        ("gated = slim, float64", 3.1e-16, 1e-9),
                        ("safetensors", 0.0, 1e-6),
                        ("pt2", 2.2e-7, 1e-4),
                        ("onnx", 1.4e-6, 1e-4),
                    )
                ],
                "curve": [
                    {
                        "epoch": e,
                        "loss": 900 * math.exp(-e / 5) + 120,
                        "nll": 0.1 + 0.4 * math.exp(-e / 4),
                        "kl": 5200 * math.exp(-e / 6) + 900,
                        "error": 8.3 + 4 * math.exp(-e / 3),
                        "kept": int(before / 3000 * (0.5 + 0.5 * math.exp(-e / 5))),
                        "seconds": 91.5,
                        "lr": 1e-4,
                    }
                    for e in range(1, 21)
                ],
            },
            gates=[
                {
                    "gate": "max-error-rise",
                    "limit": 1.0,
                    "unit": "points",
                    "value": 0.34,
                    "low": 0.05,
                    "high": 0.63,
                    "verdict": "pass",
                },
                {
                    "gate": "max-ece",
                    "limit": 2.0,
                    "unit": "%",
                    "value": 2.11,
                    "low": 1.71,
                    "high": 2.51,
                    "verdict": "inconclusive",
                },
                {
                    "gate": "min-speedup",
                    "limit": 1.5,
                    "unit": "x",
                    "value": 1.3,
                    "low": 1.24,
                    "high": 1.36,
                    "note": "torch, cpu, 1 thread, batch 1",
                    "verdict": "fail",
                },
                {"gate": "max-brier", "limit": 0.2, "unit": "", "verdict": "missing"},
            ],
        ).to_json()
    )


LONG_REASON = (
    "the operator 'aten.scaled_dot_product_attention.default' is not known, so nothing that it "
    "reads or writes may be removed; its module holds the size 'embed_dim' outside its weights"
)


@pytest.fixture(scope="module")
def resnet():
    names = ["conv1", *(f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1, 2))]
    sizes = [16, *(16 * 2 ** (s - 1) for s in (1, 2, 3) for _ in (0, 1, 2))]
    names, sizes = [*names, "layer2.0.conv2", "layer3.0.conv2"], [*sizes, 32, 64]
    locked = [
        {"name": "linear", "channels": 10, "reason": "the model's output"},
        {"name": "conv1.input", "channels": 3, "reason": "the model's input"},
        {"name": "attention.0", "channels": 64, "reason": LONG_REASON},
    ]
    return prune_report(channel_classes(names, sizes, 1), "bnnkit:resnet20-cifar", locked)


@pytest.fixture(scope="module")
def densenet():
    names = [
        f"features.denseblock{b}.denselayer{k}.conv{c}"
        for b, layers in ((1, 6), (2, 12), (3, 24), (4, 18))
        for k in range(1, layers + 1)
        for c in (1, 2)
    ]
    sizes = [128 if name.endswith("1") else 32 for name in names]
    locked = [
        {"name": f"features.norm{i}.{'x' * 60}", "channels": 32, "reason": LONG_REASON}
        for i in range(40)
    ]
    return prune_report(channel_classes(names, sizes, 2), "torchvision:densenet121", locked)


def test_a_full_report_shows_every_section(resnet, parse):
    page = render_html(resnet)
    text = " ".join(parse(page).text).replace("\u00a0", " ")
    for heading in (
        "Gates",
        "Original against slim",
        "Latency",
        "Units kept",
        "Signal-to-noise ratio",
        "Training",
        "Checks on real inputs",
        "Locked parts, and why",
        "Layers",
        "Notes",
        "Reproduce",
    ):
        assert heading in text
    assert "8.27 → 8.61 %" in text
    assert "+0.34 points [+0.05, +0.63], n = 10,000" in text
    assert "bnnkit prune ~/'models/my net.th' --arch bnnkit:resnet20-cifar" in text
    assert LONG_REASON in text


def test_nothing_comes_from_a_network_and_ids_are_unique(resnet, densenet, parse):
    for report in (resnet, densenet):
        page = render_html(report)
        parsed = parse(page)
        assert all(a.startswith(("#", "data:")) for a in parsed.addresses)
        assert not re.search(r"url\((?!#)", page)
        assert "@import" not in page
        assert "script" not in parsed.tags
        assert len(parsed.ids) == len(set(parsed.ids))
        for target in re.findall(r"url\(#([^)]*)\)", page):
            assert target in parsed.ids


def test_many_classes_become_strips_and_few_become_histograms(resnet, densenet, parse):
    few, many = parse(render_html(resnet)), parse(render_html(densenet))
    assert few.tags.count("svg") == 12 + 5
    assert many.tags.count("svg") == 1 + 5
    assert len(render_html(densenet)) < 2_000_000


def test_the_same_report_gives_the_same_page(resnet):
    assert render_html(resnet) == render_html(resnet)


def test_untrusted_names_are_escaped_everywhere(parse):
    evil = "</svg><script>alert(1)</script>{{ 7*7 }}$x^2$<img src=x onerror=a>\x1b[31m\x00"
    snr = [0.5, 2.0, None]
    node = {"name": evil, "size": 3, "kept": 2, "snr": snr}
    for count in (1, 30):
        report = Report(
            evil,
            {"argv": [evil], "versions": {evil: evil}, "hardware": {evil: evil}},
            {
                "model": {"arch": evil, "file": evil, "notes": [evil]},
                "data": {"name": evil, "notes": [evil]},
                "classes": [node] * count,
                "locked": [{"name": evil, "channels": 1, "reason": evil}],
                "layers": [{"name": evil, "kind": evil, "before": [3, 3]}],
                "checks": [{"name": evil, "unit": evil}],
                "latency": [
                    {
                        "runtime": evil,
                        "batch": evil,
                        "models": [{"name": evil, "latency": figure(1, evil, 0.1)}],
                    }
                ],
            },
            [{"gate": evil, "limit": 1, "unit": evil, "verdict": evil, "note": evil}],
        )
        page = render_html(report)
        parsed = parse(page)
        assert "script" not in parsed.tags
        assert "img" not in parsed.tags
        assert "49" not in " ".join(parsed.text).split()
        assert "\x1b" not in page
        assert "\x00" not in page


@pytest.mark.parametrize("command", ["prune", "eval", "bench", "train", "export", "inspect"])
def test_missing_sections_are_left_out(command, parse):
    text = " ".join(parse(render_html(Report(command))).text)
    assert "Latency" not in text
    assert "Reproduce" not in text


def test_an_eval_report_has_cards_without_an_original(parse):
    report = Report("eval", {}, {"slim": {"error": Quantity(8.1, "%", 10000, 7.6, 8.7)}})
    text = " ".join(parse(render_html(report)).text)
    assert "8.10 %" in text
    assert "→" not in text


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [[]], [{}], {"error": None}])
def test_malformed_sections_do_not_break_the_page(junk, parse):
    names = ("slim", "original", "paired", "ratios", "latency", "classes", "locked", "layers")
    sections = dict.fromkeys((*names, "checks", "curve", "model", "data", "method"), junk)
    parse(render_html(Report("prune", {}, sections)))


def test_bars_and_curves_survive_numbers_that_are_not(parse):
    curve = [{"epoch": 1, "loss": float("nan"), "kept": 5}, {"epoch": 2, "loss": 3.0, "kept": 0}]
    classes = [{"name": "a", "size": 0, "kept": 0, "snr": [float("inf"), 0.0]}]
    parse(render_html(Report("prune", {}, {"curve": curve, "classes": classes})))


def test_the_threshold_separates_the_bars():
    bounds = snr_range([[0.99, 1.01]])
    svg = snr_histogram([0.99, 1.01], bounds, "k")
    assert svg.count("var(--warm)") > 1
    assert 'aria-label="SNR of 2 units, 1 below 1"' in svg


def test_charts_take_their_colours_from_the_page():
    svg = curve_panel([1, 2], [3.0, 2.0], "k", 'Loss "a" <b>')
    assert not re.search(r"#0[1-5]0", svg)
    assert "var(--accent)" in svg
    assert 'aria-label="Loss &quot;a&quot; &lt;b>"' in svg


def test_the_command_line_can_be_pasted_into_a_shell():
    assert command_line(["bnnkit", "prune", "a b; rm x"]) == "bnnkit prune 'a b; rm x'"


def test_a_latency_that_is_not_a_number_is_shown_and_never_a_best(parse):
    models = [
        {"name": "first", "latency": figure(2.0, "ms", 0.1)},
        {"name": "broken", "latency": {"value": math.nan, "unit": "ms"}},
        {"name": "third", "latency": figure(1.0, "ms", 0.1), "speedup": figure(2.0, "x", 0.1)},
    ]
    models[1]["speedup"] = {"value": math.nan, "unit": "x"}
    latency = [{"runtime": "torch", "batch": 1, "models": models}]
    text = " ".join(parse(render_html(Report("bench", {}, {"latency": latency}))).text)
    assert "not a number" in text
    assert "2.00x [1.90, 2.10] at third, torch, batch 1" in text


def test_the_loss_of_each_unit_is_drawn_and_what_refitting_gave_is_told(parse):
    classes = [
        {"name": "conv1", "size": 3, "kept": 1, "loss": [0.1, 0.001, None]},
        {"name": "conv2", "size": 2, "kept": 2, "loss": [0.0, 0.0]},
    ]
    refitted = [{"layer": "conv2", "before": 0.5, "after": 0.125}]
    page = render_html(Report("prune", {}, {"classes": classes, "refitted": refitted}))
    parse(page)
    assert "What the units cost" in page
    assert page.count("units in nats") == 2
    assert "Loss of 3 units in nats, 2 closed" in page
    assert "50.0 %" in page
    assert "12.5 %" in page
    assert "mathdefault" not in page
