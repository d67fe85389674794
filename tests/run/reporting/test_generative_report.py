"""The report of `mh-filter`: its tables and pictures, with gaps and hostile names."""

from __future__ import annotations

import base64
import io
import math
import random
import struct
import zlib
from functools import cache

import pytest
from rich.console import Console

from bnnkit.cli.tables import render
from bnnkit.run.reporting import filter_digest, generative_html, generative_plots, sampler_digest
from bnnkit.run.reporting.generative_plots import Curve
from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.spec.report import Quantity, Report

EXTRACTORS = [{"name": "lenet5", "own": True}, {"name": "pca50", "own": False}]
REAL = [9.8, 11.3, 10.3, 10.1, 9.8, 8.9, 9.6, 10.3, 9.7, 10.2]
RAW = [7.1, 33.1, 2.1, 9.0, 9.4, 5.0, 7.2, 12.1, 3.9, 11.1]
FILTERED = [9.5, 11.9, 9.1, 10.2, 10.0, 9.2, 9.7, 10.6, 9.3, 10.5]
# name, label, FID and IS in LeNet features, precision, recall, FID in PCA-50, acceptance, s
SAMPLERS = (
    ("floor", "real training images", 1.03, 9.78, 0.99, 0.98, 0.05, None, None, REAL),
    ("raw", "raw generator", 126.81, 6.71, 0.71, 0.52, 6.42, None, 0.4, RAW),
    ("rejection (DRS)", "rejection (DRS)", 35.2, 8.9, 0.86, 0.77, 1.9, 0.061, 3.1, FILTERED),
    ("independent MH", "independent MH", 3.1, 9.31, 0.91, 0.88, 0.46, 0.371, 5.4, FILTERED),
)


def sampler(row):
    name, label, fid, score, precision, recall, pca, acceptance, seconds, classes = row
    moved = sum(abs(a - b) for a, b in zip(classes, REAL, strict=True)) / 200
    kid = Quantity(fid / 700, "", 100, fid / 700 - 0.001, fid / 700 + 0.001)
    return {
        "name": name, "label": label, "delivered": name == "independent MH", "n": 10000,
        "metrics": {
            "lenet5": {"fid": fid, "kid": kid, "is": score, "precision": precision,
                       "recall": recall},
            "pca50": {"fid": pca, "precision": precision, "recall": recall},
        },
        "classes": classes, "class_tv": moved,
        "acceptance": acceptance, "unique_share": None if seconds is None else 0.94,
        "seconds": seconds, "note": "",
    }  # fmt: skip


def bins():
    draw = random.Random(3)
    rows = []
    for i in range(15):
        p = (i + 0.5) / 15
        rows.append({"confidence": p, "accuracy": min(1, max(0, p + draw.gauss(0, 0.03))),
                     "n": 200 + 1500 * (i in (0, 14))})  # fmt: skip
    return rows


def length_row(length):
    fid = 3.1 + 123 * math.exp(-((length / 12) ** 0.45))
    pca = 0.46 + 6 * math.exp(-((length / 12) ** 0.45))
    return {
        "length": length, "acceptance": 0.37 + 0.3 / length, "unmoved_share": 0.63**length,
        "metrics": {"lenet5": {"fid": fid, "is": 9.31 - fid / 48}, "pca50": {"fid": pca}},
    }  # fmt: skip


def trace_row(i):
    fid = 3.1 + 120 * math.exp(-i / 2)
    return {
        "step": 100 * (i + 1), "loss": 0.2 + 0.4 * math.exp(-i / 3), "auc": 97.0 - 20 / (i + 1),
        "fid": {"lenet5": {"mean": fid, "sd": fid / 10}, "pca50": {"mean": fid / 9, "sd": 0.1}},
        "is": {"mean": 9.3 - fid / 50, "sd": 0.05}, "runs": 5,
    }  # fmt: skip


@cache
def png(width=226, height=226, seed=0):
    """Return a grid of grey noise as base64 of a PNG."""
    draw = random.Random(seed)
    rows = b"".join(b"\0" + bytes(draw.choice((0, 0, 255)) for _ in range(width))
                    for _ in range(height))  # fmt: skip

    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


VERDICT = [
    "Filtering brings the Fréchet distance from 126.8 to 3.1 in the filter's own features, and "
    "from 6.42 to .46 in PCA-50; real training images are at 1.03 and .05.",
    "Every class is between 9.1 and 11.9 % of the samples.",
]
BOUND = {"loss": 1.236, "b": 0.05, "prefactor": 10933.3, "gap": 0.0312, "bound": 341.1,
         "vacuous": True}  # fmt: skip


def candidates():
    rows = []
    for i, name in enumerate(("conv", "features", "combined")):
        distances = {"lenet5": (11.4, 3.1, 3.4)[i], "pca50": (0.62, 0.46, 0.52)[i]}
        rows.append({"name": name, "temperature": 1.0 + 0.1 * i, "distances": distances,
                     "score": (0.81, 0.31, 0.36)[i], "chosen": i == 1})  # fmt: skip
    return rows


def discriminator():
    return {
        "kind": "features", "loss": "bce", "steps": 1200, "seconds": 17.1, "temperature": 1.1,
        "auc": Quantity(96.84, "%", 10000, 96.5, 97.2), "calibration": "temperature",
        "nll": Quantity(0.2131, "nats", 10000, 0.206, 0.22), "extractor": "lenet5",
        "ece": Quantity(1.21, "%", 10000, 0.9, 1.6), "candidates": candidates(),
    }  # fmt: skip


def sections():
    return {
        "model": {"file": "gen.pt", "notes": []},
        "data": {"name": "mnist", "n_train": 60000, "n_test": 10000, "notes": []},
        "generator": {"name": "gen.pt", "form": "state_dict", "latent": "normal:64",
                      "out_range": [-1, 1], "shape": [1, 28, 28], "classes": None,
                      "pixels": "mean", "notes": ["outputs of [-1, 1] are scaled to [0, 1]"]},
        "splits": {"fit": 50000, "held": 10000, "test": 10000, "seed": 0},
        "discriminator": discriminator(),
        "reliability": [{"name": "discriminator", "bins": bins(), "ece": 1.21}],
        "bank": {"size": 100000, "seconds": 5.2, "per_second": 19230.8, "weight_ess": 12300,
                 "weight_ess_share": 0.123},
        "chain": {"proposal": "independent", "length": 640, "chains": 10000,
                  "acceptance": Quantity(0.371, "", 6400000, 0.369, 0.373),
                  "acceptance_from_real": Quantity(18.2, "%", 10000, 17.5, 19.0),
                  "tv_estimate": 0.818, "unmoved_share": 0.004, "restarts": 41,
                  "unique_share": 0.941, "per_second": 1866.2},
        "bound": BOUND,
        "extractors": EXTRACTORS,
        "samplers": [sampler(row) for row in SAMPLERS],
        "length_curve": [length_row(n) for n in (1, 2, 5, 10, 20, 40, 80, 160, 320, 640)],
        "trace": [trace_row(i) for i in range(12)],
        "class_names": [str(i) for i in range(10)],
        "grids": [{"name": "raw", "png": png(seed=1)}, {"name": "filtered", "png": png(seed=2)}],
        "verdict": VERDICT,
    }  # fmt: skip


def report_of(**changed):
    argv = ["bnnkit", "mh-filter", "gen.pt", "--data", "mnist"]
    provenance = {"argv": argv, "versions": {"torch": "2.13.0"}, "seed": 0}
    return Report("mh-filter", provenance, {**sections(), **changed})


# --- tables ---------------------------------------------------------------------------------


def test_samplers_side_by_side_label_what_flatters_and_end_with_the_floor(cells):
    table = sampler_digest.samplers_table(report_of().to_dict())
    assert cells(table, "independent MH") == {
        "sampler": "independent MH (delivered)",
        ">FID, lenet5, own": "3.10", ">IS, lenet5, own": "9.31",
        ">precision, lenet5, own": "0.91", ">recall, lenet5, own": "0.88",
        ">FID, pca50": "0.460", ">precision, pca50": "0.91", ">recall, pca50": "0.88",
        ">rarest class, %": "9.1", ">commonest, %": "11.9",
    }  # fmt: skip
    assert table.marked == {2}
    assert table.rows[-1][:3] == ("real training images (floor)", "1.03", "9.78")
    assert table.rows[0][-2:] == ("2.1", "33.1")
    for part in ("n = 10,000.", "Floor: real training images", "which flatter it"):
        assert part in table.note


def test_nothing_is_called_own_where_the_filter_used_no_features():
    body = report_of(extractors=[{"name": "lenet5", "own": False}]).to_dict()
    table = sampler_digest.samplers_table(body)
    assert ">FID, lenet5" in table.columns
    assert "flatter" not in table.note


def test_a_sampler_of_fewer_samples_says_so():
    rows = [sampler(row) for row in SAMPLERS]
    rows[2]["n"] = 2000
    table = sampler_digest.samplers_table(report_of(samplers=rows).to_dict())
    assert "rejection (DRS) (n = 2,000)" in [row[0] for row in table.rows]
    assert "n = 10,000 where not said." in table.note


def test_variety_and_cost_of_the_samplers(cells):
    table = sampler_digest.costs_table(report_of().to_dict())
    assert cells(table, "rejection") == {
        "sampler": "rejection (DRS)", ">TV of classes": "0.019", ">accepted, %": "6.1",
        ">distinct, %": "94.0", ">time, s": "3.10",
        ">KID, lenet5, own": "0.0503 [0.0493, 0.0513]",
    }  # fmt: skip
    rows = [{**sampler(row), "note": "slow"} for row in SAMPLERS]
    rows[0]["metrics"]["pca50"]["kid"] = {"value": 0.0054, "sd": 0.0034}
    told = sampler_digest.costs_table(report_of(samplers=rows).to_dict())
    assert told.columns[-1] == "note"
    assert cells(told, "real")[">KID, pca50"] == "0.0054 ± 0.0034"


def test_shares_are_percents_whether_plain_or_figures():
    facts = {row[0]: row[1:] for row in filter_digest.chain_table(report_of().to_dict()).rows}
    assert facts["acceptance"] == ("37.10 % [36.90, 37.30]", "6,400,000")
    assert facts["acceptance from real images"] == ("18.20 % [17.50, 19.00]", "10,000")
    assert facts["chains that never moved"][0] == "0.4 %, 41 restarted"
    assert facts["bank"][0] == "100,000 proposals made, 5.2 s, 19,231/s"
    assert facts["ESS of their weights"][0] == "12,300 (12.3 %)"
    assert facts["its calibration"][0] == "temperature, T = 1.1"
    assert sampler_digest.in_percent(True) is None


def test_the_bound_says_vacuous_by_its_number():
    text = filter_digest.bound_text({"bound": BOUND})
    assert text == (
        "Loss of held-out pairs (d ≥ 0.05): 1.236 nats. The bound of TV² from it is "
        "1.093e+04 x 0.0312 nats = 341, vacuous: no distance exceeds 1."
    )
    assert "vacuous" not in filter_digest.bound_text({"bound": {**BOUND, "bound": 0.4}})
    assert "vacuous" in filter_digest.bound_text({"bound": {**BOUND, "vacuous": False}})
    assert "vacuous" in filter_digest.bound_text({"bound": {"bound": None, "vacuous": True}})
    assert filter_digest.bound_text({"bound": []}) == ""


def test_curves_are_thinned_to_their_ends():
    body = report_of().to_dict()
    lengths, trace = filter_digest.length_table(body), filter_digest.trace_table(body)
    assert [row[0] for row in lengths.rows] == ["1", "5", "20", "40", "160", "640"]
    assert (len(trace.rows), trace.rows[0][0], trace.rows[-1][0]) == (8, "100", "1,200")
    assert trace.columns == (">step", ">loss", ">AUC", ">FID, lenet5, own", ">FID, pca50", ">IS")
    assert trace.rows[0][3] == "123.10 ± 12.31"
    assert "5 evaluations each" in trace.note


def test_the_chosen_discriminator_is_marked():
    table = filter_digest.candidates_table(report_of().to_dict())
    assert table.columns == (
        "discriminator", ">T", ">distance, lenet5, own", ">distance, pca50", ">score"
    )  # fmt: skip
    assert (table.marked, table.rows[1]) == ({1}, ("features", "1.10", "3.10", "0.46", "0.31"))


def test_the_best_temperature_of_each_discriminator():
    rows = [{"name": "conv", "temperature": t, "score": s, "chosen": False}
            for t, s in ((1.0, None), (1.2, 0.9), (0.9, 0.7))]  # fmt: skip
    rows += [{"name": "features", "temperature": t, "score": s, "chosen": s == 0.5}
             for t, s in ((1.0, 0.5), (1.4, 0.4))]  # fmt: skip
    body = report_of(discriminator={"candidates": rows}).to_dict()
    table = filter_digest.candidates_table(body, best=True)
    assert [row[:2] for row in table.rows] == [("conv", "0.90"), ("features", "1.00")]
    assert table.marked == {1}
    page = render_html(report_of(discriminator={"candidates": rows}))
    assert "All 5 temperatures and discriminators" in page


def test_features_with_long_names_are_called_by_their_model():
    names = ("mnist-lenet, penultimate", "pixels, PCA-50", "a-model, layer 1 of it",
             "a-model, layer 2 of it")  # fmt: skip
    body = {"extractors": [{"name": name, "own": name == names[0]} for name in names]}
    heads = ["mnist-lenet, own", "pixels, PCA-50", "a-model, layer 1 of it",
             "a-model, layer 2 of it"]  # fmt: skip
    assert [head for _, head in sampler_digest.extractors_of(body)] == heads


def test_the_terminal_ends_with_the_samplers_and_the_verdict(written):
    text = written(report_of())
    parts = ("Note: outputs of [-1, 1]", "Discriminator and chain", "vacuous",
             "Training of the discriminator", "By length of the chain", "variety and cost",
             "Samplers side by side", VERDICT[0], VERDICT[1])  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_an_80_column_terminal_breaks_no_number(written):
    text = written(report_of(), terminal=True)
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "Samplers in features of lenet5 (own)" in text
    assert "Samplers in features of pca50" in text
    for number in ("126.81", "0.460", "0.245", "6,400,000", "123.10 ± 12.31", "33.1"):
        assert number in text
    assert text.count("Floor: real") == 1
    assert "Samplers side by side" in written(report_of(), terminal=True, width=140)


# --- the page -------------------------------------------------------------------------------

HEADINGS = (
    "Samples", "Samplers side by side", "Classes", "Samplers: variety and cost",
    "Length of the chain", "Discriminator and chain", "Discriminators tried",
    "Training of the discriminator", "Reliability", "Notes", "Inputs", "Reproduce",
)  # fmt: skip
HEADINGS_OF = {
    "samplers": {"Samplers side by side", "Classes", "Samplers: variety and cost"},
    "grids": {"Samples"},
    "length_curve": {"Length of the chain"},
    "trace": {"Training of the discriminator"},
    "discriminator": {"Discriminators tried"},
    "reliability": {"Reliability"},
    "generator": {"Notes"},
}


def test_the_page_shows_every_section(parse):
    page = parse(render_html(report_of()))
    text = " ".join(" ".join(page.text).split())
    assert tuple(page.headings) == HEADINGS
    for part in (VERDICT[0], "FID, pca50", "6.42 → 0.46", "lenet5 (own): 126.81 → 3.10",
                 "6.71 → 9.31", "2–33 → 9–12 %", "37.1 %", "1,866/s", "from a bank of 100,000",
                 "real images", "normal:64", "vacuous", "ECE 1.21 %"):  # fmt: skip
        assert part in text
    assert page.tags.count("svg") == 1 + 3 + 4 + 1
    assert page.images == [f"data:image/png;base64,{g['png']}" for g in sections()["grids"]]
    assert len(page.ids) == len(set(page.ids))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the charts out: what is tested is which there are."""
    for name in ("curves_panel", "class_bars"):
        monkeypatch.setattr(generative_plots, name, lambda *_: "<svg></svg>")


@pytest.mark.parametrize("missing", sorted({*sections()} - {"model", "data"}))
@pytest.mark.usefixtures("undrawn")
def test_a_section_that_lacks_is_left_out(missing, parse, written):
    report = report_of()
    del report.sections[missing]
    page = parse(render_html(report))
    assert set(HEADINGS) - set(page.headings) == HEADINGS_OF.get(missing, set())
    written(report)
    written(report, terminal=True)
    to_markdown(report)


@pytest.mark.usefixtures("undrawn")
def test_only_real_pngs_are_embedded(parse):
    good = png(2, 3)
    raw = base64.b64decode(good)
    wide = raw[:16] + struct.pack(">I", 1 << 30) + raw[20:29]
    wide += struct.pack(">I", zlib.crc32(wide[12:29])) + raw[33:]
    bad = ["", 3, None, good[:-3] + '"><', "javascript:alert(1)", good[:20], "é" + good,
           base64.b64encode(b"<svg onload='alert(1)'/>").decode(),
           base64.b64encode(b"GIF89a" + raw).decode(),
           base64.b64encode(raw[:20] + b"\1" + raw[21:]).decode(),
           base64.b64encode(wide).decode()]  # fmt: skip
    grids = [{"name": "raw", "png": value} for value in bad]
    assert parse(render_html(report_of(grids=grids))).images == []
    one = generative_html.pictures(report_of(grids=[{"png": good}]).to_dict())["grids"]
    assert one == [{"name": "-", "png": good, "width": 2, "height": 3}]


def test_a_curve_leaves_out_what_cannot_be_drawn():
    curve = Curve(1, [0, 1, 2, None, 4, 5], [9, 8, None, 6, 1e300, 4], [1, None])
    assert curve.points(positive=True) == [(1, 8, 0), (5, 4, 0)]
    assert curve.points(positive=False)[0] == (0, 9, 1)


def test_many_classes_and_many_features_stay_a_page(parse, written):
    rows = [{**sampler(row), "classes": [0.1] * 1000} for row in SAMPLERS]
    for row in rows:
        row["metrics"] = {f"features {i}": {"fid": 10.0 + i} for i in range(14)}
    curve = [{"length": n, "metrics": rows[0]["metrics"]} for n in (1, 10)]
    report = report_of(samplers=rows, extractors=[], length_curve=curve)
    page = render_html(report)
    assert "var(--series10)" not in page
    assert "features 13" in page
    assert len(page) < 1_500_000
    assert "0.1–0.1 %" in " ".join(parse(page).text)
    written(report, terminal=True)


@pytest.mark.parametrize("value", [math.nan, 0, -1, 1e308, 1e-308, 10**400, "text"])
def test_odd_figures_are_survived(value, parse, written, nulled):
    report = report_of()
    del report.sections["reliability"]  # drawn, and tested, with the methods of uncertainty
    report.sections = {key: nulled(part, value) for key, part in report.sections.items()}
    parse(render_html(report))
    written(report)
    written(report, terminal=True)
    to_markdown(report)


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [{}], [[]], {"notes": 3},
                                  {"candidates": [{}, {"distances": [1]}], "temperature": "a"},
                                  [{"metrics": {"a": 3, "b": {"fid": []}}, "classes": ["x"]}],
                                  [{"metrics": [1], "classes": [], "name": [], "label": {}}],
                                  [{"length": "a", "metrics": {"a": {"fid": 1}}}],
                                  [{"step": 0, "fid": {"a": 3}, "is": 2}],
                                  [{"name": {}, "own": True, "png": "iVBOR"}]])  # fmt: skip
def test_malformed_sections_are_survived(junk, parse, written):
    report = Report("mh-filter", {}, dict.fromkeys(sections(), junk))
    parse(render_html(report))
    written(report)
    written(report, terminal=True)
    to_markdown(report)


def test_hostile_names_stay_text(parse):
    evil = "</text><script>alert(1)</script>\"'&\x1b[2J $\\frac, own"
    rows = [{**sampler(row), "label": evil, "note": evil} for row in SAMPLERS]
    for row in rows:
        row["metrics"] = {evil: row["metrics"]["lenet5"]}
    report = report_of(
        samplers=rows, extractors=[{"name": evil, "own": True}], class_names=[evil] * 10,
        grids=[{"name": evil, "png": png(2, 2)}], verdict=[evil],
        length_curve=[{"length": n, "metrics": rows[0]["metrics"]} for n in (1, 2)],
        generator={"name": evil, "notes": [evil]}, chain={"proposal": evil},
        discriminator={"kind": evil, "loss": evil, "candidates": [{"name": evil, "score": 1}]},
    )  # fmt: skip
    page = render_html(report)
    assert "script" not in parse(page).tags
    assert "<script" not in page
    assert "\x1b" not in page
    stream = io.StringIO()
    render(report, Console(file=stream, width=300))
    assert "\x1b" not in stream.getvalue()


def test_a_page_of_another_command_says_nothing_of_samplers(parse, written):
    page = parse(render_html(Report("train", {}, sections())))
    assert not {*HEADINGS[:8]} & set(page.headings)
    assert "Samplers" not in written(Report("train", {}, sections()))
