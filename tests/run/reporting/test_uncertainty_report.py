"""The report of `sbn-fit`: its tables and pictures, with gaps, hostile names and many layers."""

from __future__ import annotations

import math
import random
import re

import pytest

from bnnkit.run.reporting import uncertainty_digest as digest
from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.run.reporting.uncertainty_plots import share_interval
from bnnkit.spec.report import Quantity, Report

TOP = math.log(10)
# name, label, K, delivered, T, n, error, NLL, ECE, AUROC
METHODS = (
    ("bn", "batch norm", 1, False, None, 10000, 8.27, 0.4631, 6.02, 91.2),
    ("means", "fitted means", 1, False, None, 10000, 8.31, 0.4642, 6.05, 91.1),
    ("temperature", "batch norm + temperature", 1, False, 1.74, 10000, 8.27, 0.3752, 1.21, 91.9),
    ("factorised", "factorised SBN", 30, False, None, 10000, 8.43, 0.4341, 5.18, 90.8),
    ("lowrank", "low-rank SBN + temperature", 30, True, 1.31, 10000, 8.19, 0.3719, 1.16, 90.6),
    ("mcbn", "MC-BN", 30, False, None, 2500, 8.22, 0.3968, 2.63, 87.5),
)


def quality(error, nll, ece, n=10000):
    return {
        "error": Quantity(error, "%", n, error - 0.54, error + 0.54),
        "nll": Quantity(nll, "nats", n, nll - 0.02, nll + 0.02),
        "ece": Quantity(ece, "%", n, ece - 0.4, ece + 0.4),
        "ece_equal_mass": Quantity(ece + 0.1, "%", n, ece - 0.3, ece + 0.5),
        "brier": Quantity(nll / 2.7, "", n, nll / 2.7 - 0.006, nll / 2.7 + 0.006),
    }


def rises(of, to, n=10000):
    return {
        "error_rise": Quantity(to[6] - of[6], "points", n, to[6] - of[6] - 0.2, 0.3),
        "nll_rise": Quantity(to[7] - of[7], "nats", n, to[7] - of[7] - 0.01, to[7] - of[7] + 0.01),
        "ece_rise": Quantity(to[8] - of[8], "points", n, to[8] - of[8] - 0.3, 0.5),
    }


def method(row):
    name, label, samples, delivered, temperature, n, error, nll, ece, auroc = row
    entropy = {
        "auroc": Quantity(auroc, "%", 2 * n, auroc - 0.3, auroc + 0.3),
        "aupr": Quantity(auroc - 2, "%", 2 * n),
        "fpr95": Quantity(100 - auroc + 20, "%", 2 * n),
    }
    scores = {"entropy": entropy}
    if samples > 1:
        scores["mutual_information"] = {"auroc": Quantity(auroc - 4.44, "%", 2 * n)}
    out = {"name": name, "label": label, "samples": samples, "delivered": delivered}
    out |= {"temperature": temperature, "n": n, **quality(error, nll, ece, n)}
    if name != "bn":
        out["paired"] = rises(METHODS[0], row, n)
        rise = auroc - METHODS[0][-1]
        scores["auroc_rise"] = Quantity(rise, "points", 2 * n, rise - 0.4, rise + 0.4)
    return {**out, "ood": {"mnist": scores, "svhn": {"entropy": entropy}}}


def bins(draw, spread):
    out = []
    for i in range(15):
        confidence = (i + 0.5) / 15
        n = int(10 ** (i / 4)) if i > 1 else 0
        accuracy = min(max(confidence - spread * math.sin(math.pi * confidence), 0), 1)
        gap = {"confidence": confidence, "accuracy": accuracy + draw.gauss(0, 0.01), "n": n}
        out.append(gap if n else {"confidence": math.nan, "accuracy": math.nan, "n": 0})
    return out


def curves(shown):
    draw = random.Random(5)
    grid = [TOP * i / 199 for i in range(200)]
    coverage = [(i + 1) / 200 for i in range(200)]
    entropy, risk, reliability = [], [], []
    for i, row in enumerate(shown):
        label, error = row[1], row[6]
        powers = {"cifar10": 0.25 + 0.05 * i, "mnist": 1.1 + 0.2 * i, "svhn": 0.9 + 0.15 * i}
        for name, power in powers.items():
            cdf = [(x / TOP) ** power for x in grid]
            entropy.append({"name": label, "set": name, "inside": name == "cifar10",
                            "entropy": grid, "cdf": cdf})  # fmt: skip
        at = [error * (c ** (2.2 + 0.3 * i)) + 0.02 * draw.random() for c in coverage]
        risk.append({"name": label, "coverage": coverage, "risk": at, "aurc": sum(at) / 200})
        reliability.append({"name": label, "bins": bins(draw, row[8] / 30), "ece": row[8]})
    return {"entropy_cdf": entropy, "risk_coverage": risk, "reliability": reliability}


def fit(names):
    draw = random.Random(7)
    edges = [0.02 + 0.003 * i for i in range(21)]
    null = [1376 / 12 * math.exp(-(((i - 6) / 3.2) ** 2)) for i in range(20)]
    counts = [[max(0, round(draw.gauss(v, math.sqrt(v + 1)))) for v in null] for _ in range(2)]
    size = len(names)
    matrix = [[0.45 * math.exp(-abs(i - j) / (size / 6)) + 0.02 * draw.random()
               for j in range(size)] for i in range(size)]  # fmt: skip
    return {
        "sampler": "lowrank", "batch_size": 32, "batches": 300, "layers": size, "channels": 688,
        "store_bytes": 115_000, "replay_bytes": 2_310_000, "seconds": 8.42,
        "ks": {"median": 0.0381, "null_median": 0.0377, "null_95": 0.0514, "rejected_share": 6.3,
               "n": 1376},
        "histogram": {"edges": edges, "means": counts[0], "deviations": counts[1], "null": null},
        "correlation": {"layers": names, "matrix": matrix},
    }  # fmt: skip


def latency():
    rows = []
    for batch, slower in ((1, 6.1), (32, 6.6)):
        low = Quantity(1 / slower, "x", 200, 0.97 / slower, 1.03 / slower)
        rows.append(
            {
                "runtime": "torch", "device": "cpu", "threads": 1, "batch": batch,
                "models": [
                    {"name": "original", "latency": Quantity(4.0, "ms", 200, 3.9, 4.1)},
                    {"name": "stochastic", "speedup": low,
                     "latency": Quantity(4 * slower, "ms", 200, 3.9 * slower, 4.1 * slower)},
                ],
            }
        )  # fmt: skip
    return rows


VERDICT = [
    "Temperature scaling alone brings the log-loss from .463 to .375 nats; "
    "low-rank SBN with temperature brings it to .372.",
    "The difference between them, -.0033 nats, is smaller than its interval: "
    "temperature alone is enough here.",
]


def sbn_report(layers=None, **changed):
    layers = layers or [
        f"layer{s}.{b}.bn{c}" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)
    ]
    sections = {
        "model": {"file": "net.th", "arch": "bnnkit:resnet20-cifar", "notes": []},
        "data": {"name": "cifar10", "fingerprint": "5f21", "n_train": 50000, "n_test": 10000},
        "original": quality(*METHODS[0][6:9]),
        "slim": quality(*METHODS[4][6:9]),
        "paired": rises(METHODS[0], METHODS[4]),
        "methods": [method(row) for row in METHODS],
        "verdict": VERDICT,
        **curves([METHODS[i] for i in (0, 2, 3, 4)]),
        "fit": fit(layers),
        "latency": latency(),
        "checks": [{"name": "onnx", "worst": 2e-7, "tolerance": 1e-5, "unit": "absolute", "n": 64,
                    "passed": True}],
    }  # fmt: skip
    argv = ["bnnkit", "sbn-fit", "net.th", "--data", "cifar10"]
    provenance = {"argv": argv, "versions": {"torch": "2.13.0"}, "seed": 0}
    return Report("sbn-fit", provenance, {**sections, **changed})


def row_of(text, start):
    found = [" ".join(x.split()) for x in text.splitlines() if x.strip().startswith(start)]
    assert len(found) == 1, found
    return found[0]


def test_side_by_side_marks_the_delivered_and_gives_changes_with_intervals(cells):
    table = digest.methods_table(sbn_report().to_dict())
    assert table.columns == (
        "method", ">K", ">T", ">error, %", ">NLL, nats", ">change of NLL", ">ECE, %", ">Brier"
    )  # fmt: skip
    best = cells(table, "low-rank")
    assert table.marked == {4}
    assert best["method"] == "low-rank SBN + temperature (delivered)"
    assert (best[">K"], best[">T"], best[">error, %"], best[">NLL, nats"]) == (
        "30", "1.31", "8.19", "0.3719"
    )  # fmt: skip
    assert best[">change of NLL"] == "-0.091 [-0.101, -0.081]"
    assert table.rows[0][:7] == ("batch norm", "1", "-", "8.27", "0.4631", "reference", "6.02")
    assert table.rows[-1][0] == "MC-BN (n = 2,500)"
    assert "n = 10,000 where not said. Changes are against batch norm" in table.note


def test_one_n_goes_below_the_table():
    rows = [method(row) for row in METHODS[:2]]
    table = digest.methods_table(sbn_report(methods=rows).to_dict())
    assert ">T" not in table.columns
    assert "n = 10,000. " in table.note


def test_a_table_for_each_set_outside_the_domain(cells):
    mnist, svhn = digest.ood_tables(sbn_report().to_dict())
    assert mnist.title == "Out of domain: mnist"
    assert cells(mnist, "low-rank") == {
        "method": "low-rank SBN + temperature (delivered)",
        ">AUROC, %": "90.60", ">change": "-0.60 [-1.00, -0.20]", ">AUROC by MI, %": "86.16",
        ">AUPR, %": "88.60", ">FPR95, %": "29.40",
    }  # fmt: skip
    assert cells(mnist, "batch norm +")[">AUROC by MI, %"] == "-"
    assert mnist.rows[0][2] == "reference"
    assert svhn.columns == ("method", ">AUROC, %", ">AUPR, %", ">FPR95, %")


def test_the_fit_in_words():
    table = digest.fit_table(sbn_report().to_dict())
    facts = dict(table.rows)
    assert facts["batches"] == "300 of 32 inputs"
    assert facts["store of a replay"] == "2.31 MB (20.1x as much)"
    assert facts["median KS of a true fit"] == "0.0377, 95 % below 0.0514"
    assert facts["rejected by Lilliefors, 5 % level"] == "6.3 % of 1,376 tests"
    assert digest.fit_table({"fit": {"sampler": "replay"}}).rows == (("sampler", "replay"),)
    assert digest.fit_table({"fit": {"sampler": None, "ks": None}}) is None


def test_the_terminal_ends_the_comparison_with_the_verdict(written):
    text = written(sbn_report())
    assert row_of(text, "ECE, equal mass").startswith("ECE, equal mass 6.12 % [5.72, 6.52] 1.26 %")
    parts = ("Fit of the batch statistics", "Out of domain: mnist", "Original against stochastic",
             "Side by side", VERDICT[0], VERDICT[1], "Checks on real inputs")  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "slim" not in text


def test_an_80_column_terminal_breaks_no_number(written):
    text = written(sbn_report(), terminal=True, width=80)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(len(line.rstrip()) <= 80 for line in plain.splitlines())
    for number in (
        "temperature",
        "(delivered)",
        "0.3719",
        "[-0.101, -0.081]",
        "10,000",
        "0.1377",
        "[-1.00, -0.20]",
    ):
        assert number in plain


def test_markdown_holds_the_verdict_and_both_tables():
    text = to_markdown(sbn_report())
    assert "Temperature scaling alone brings" in text
    assert "| **low-rank SBN + temperature (delivered)** | **30** |" in text
    assert "### Out of domain: mnist" in text


def test_an_interval_of_a_bin_holds_its_accuracy_and_never_vanishes():
    for n in (1, 3, 1000):
        for right in {0, 1, n}:
            low, high = share_interval(right / n, n)
            assert 0 <= low <= right / n <= high <= 1
            assert high > low
    low, high = share_interval(0.5, 10000)
    assert (low, high) == pytest.approx((0.4902, 0.5098), abs=3e-4)  # Wilson, 95 %


HEADINGS = (
    "Original against stochastic", "Side by side", "Out of domain: mnist",
    "Out of domain: svhn", "Reliability", "Risk and coverage", "Entropy of the predictions",
    "Fit of the batch statistics", "Latency", "Checks on real inputs", "Inputs", "Reproduce",
)  # fmt: skip
HEADINGS_OF = {
    "methods": {"Side by side", "Out of domain: mnist", "Out of domain: svhn"},
    "original": {"Original against stochastic"},
    "reliability": {"Reliability"},
    "risk_coverage": {"Risk and coverage"},
    "entropy_cdf": {"Entropy of the predictions"},
    "fit": {"Fit of the batch statistics"},
    "latency": {"Latency"},
}


def test_the_page_shows_every_section(parse):
    page = parse(render_html(sbn_report()))
    text = " ".join(page.text).replace("\u00a0", " ")
    assert tuple(page.headings) == HEADINGS
    assert text.count(VERDICT[0]) == 2  # at the top, and after the comparison
    for part in ("0.463 → 0.372", "6.02 → 1.16 %", "91.2 → 90.6 %", "6.10x",
                 "worst of 2: 6.60x", "cifar10 against svhn", "ECE 1.21 %"):  # fmt: skip
        assert part in text
    assert page.tags.count("svg") == 4 + 1 + 2 + 2
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("missing", ["methods", "verdict", "reliability", "risk_coverage",
                                     "entropy_cdf", "fit", "latency", "original"])  # fmt: skip
def test_a_section_that_lacks_is_left_out(missing, parse, written):
    report = sbn_report()
    del report.sections[missing]
    page = parse(render_html(report))
    gone = set(HEADINGS) - set(page.headings)
    assert gone == HEADINGS_OF.get(missing, set())
    assert set(page.headings) - set(HEADINGS) <= {"Measured"}
    written(report)
    to_markdown(report)


def test_figures_that_are_not_numbers_are_survived(parse, written, nulled):
    report = sbn_report()
    report.sections = {key: nulled(value, math.nan) for key, value in report.sections.items()}
    page = parse(render_html(report))
    assert "Side by side" in page.headings
    broken = {**method(METHODS[0]), "nll": Quantity(math.nan, "nats")}
    assert "not a number" in written(sbn_report(methods=[broken]))
    written(report, terminal=True)
    to_markdown(report)


NAMES = ("methods", "verdict", "reliability", "risk_coverage", "entropy_cdf", "fit", "slim")


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [{}], [[]], {"ks": 1},
                                  {"correlation": {"matrix": [[1, 2], [3]]}},
                                  {"histogram": {"edges": ["a", None], "means": [1]}},
                                  [{"bins": [{}], "entropy": 3, "cdf": [1], "ood": {"a": 1}}],
                                  [{"ood": {"a": {"entropy": 0}}, "coverage": "x", "risk": [1]}],
                                  {"histogram": {"edges": [0, 1], "means": [1, 2]}}])  # fmt: skip
def test_malformed_sections_are_survived(junk, parse, written):
    report = Report("sbn-fit", {}, dict.fromkeys(NAMES, junk))
    parse(render_html(report))
    written(report)
    to_markdown(report)


def test_hostile_names_stay_text(parse, written):
    evil = "</text><script>alert(1)</script>\"'&\x1b[2J $\\frac"
    rows = [{**method(row), "label": evil + str(i)} for i, row in enumerate(METHODS[:2])]
    rows[1]["ood"] = {evil: rows[1]["ood"]["mnist"]}
    drawn = {
        key: [{**row, "name": evil, "set": evil} for row in value]
        for key, value in curves(METHODS[:1]).items()
    }
    report = sbn_report([evil] * 3, methods=rows, verdict=[evil], **drawn)
    page = render_html(report)
    parsed = parse(page)
    assert "script" not in parsed.tags
    assert "<script" not in page
    assert "\x1b" not in page
    assert "alert(1)" in " ".join(parsed.text)
    assert "\x1b" not in written(report)
    assert "<script" not in to_markdown(report).replace("\\<script", "")


def test_a_very_deep_network_stays_readable():
    names = [f"features.denseblock{i // 40}.denselayer{i % 40}.norm{i % 2}" for i in range(121)]
    page = render_html(sbn_report(names))
    image = page[page.index("Correlation between layers") :]
    labels = re.findall(r">features\.dens[^<]*", image)
    assert 20 <= len(labels) <= 32
    assert len(page) < 1_500_000


def test_more_methods_than_colours_are_all_named():
    shown = [(*METHODS[0][:1], f"method {i}", *METHODS[0][2:]) for i in range(14)]
    page = render_html(sbn_report(methods=[method(row) for row in shown], **curves(shown)))
    assert "var(--series10)" not in page
    for i in range(14):
        assert f"method {i}" in page


def test_a_page_of_another_command_says_nothing_of_methods(parse):
    report = sbn_report()
    plain = {key: report.sections[key] for key in ("original", "slim", "paired", "latency")}
    page = parse(render_html(Report("eval", {}, plain)))
    assert page.headings == ["Original against slim", "Latency"]
