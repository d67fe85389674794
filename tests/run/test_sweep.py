"""`sweep`: cells run once, figures pooled over seeds, fronts, and what stops it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import bnnkit
from bnnkit.errors import StructureError, UsageError
from bnnkit.run import sweep as module
from bnnkit.run.checkpoints import Checkpoints, TrainState
from bnnkit.run.gates import judge
from bnnkit.run.latency import original as original_timing
from bnnkit.run.latency.section import latency_table
from bnnkit.run.progress import SilentProgress
from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.run.reporting.sweep_digest import setting_names, sweep_table, sweep_tables, target_text
from bnnkit.run.sweep import exit_code
from bnnkit.run.sweeping.pareto import pareto_front
from bnnkit.run.sweeping.rows import mark_fronts, pool, pooled_rows, spread
from bnnkit.spec import DataSpec, ModelSpec, Quantity, Report
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig, Target
from bnnkit.spec.sweep import SweepConfig, parse_list

DIGITS = DataSpec("digits", limit=200)
QUICK = PruneConfig(
    train=TrainConfig(epochs=2, batch_size=50, lr=3e-3, threads=1), batches=(1,), formats=()
)
HALF = SweepConfig(("sbp", "magnitude"), macs=(0.5,), seeds=(0, 1), base=QUICK)


# --- which cells ----------------------------------------------------------------------------


def test_cells_are_every_combination_one_seed_after_the_other():
    config = SweepConfig(
        ("sbp", "taylor"), macs=(0.5, 0.33), sizes=(500_000,), speedups=(2.0,),
        error_rises=(0.5,), seeds=(3, 1), base=QUICK,
    )  # fmt: skip
    cells = config.cells()
    assert len(cells) == 2 * 5 * 2
    assert [cell.config.train.seed for cell in cells] == [3] * 10 + [1] * 10
    assert [cell.name for cell in cells[:6]] == [
        "sbp-macs0.5-s3", "sbp-macs0.33-s3", "sbp-size500000-s3", "sbp-speedup2-s3",
        "sbp-rise0.5-s3", "taylor-macs0.5-s3",
    ]  # fmt: skip
    assert cells[2].config == replace(
        QUICK, method="sbp", train=replace(QUICK.train, seed=3), target=Target(size=500_000)
    )


def test_without_a_target_the_evidence_decides():
    (cell,) = SweepConfig(seeds=(0,)).cells()
    assert cell.name == "sbp-evidence-s0"
    assert not cell.config.target


@given(st.lists(st.floats(1e-6, 0.999999), min_size=1, max_size=20, unique=True))
def test_names_of_targets_are_unique(shares):
    config = SweepConfig(macs=tuple(shares), seeds=(0,))
    assert len(config.cells()) == len(shares)


def test_a_cell_stated_twice_is_one():
    assert len(SweepConfig(("sbp", "sbp"), macs=(0.5, 0.5), seeds=(0, 0)).cells()) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ()}, "--methods"),
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (-1,)}, "--seed"),
        ({"macs": (1.5,)}, "--target-macs"),
        ({"base": replace(QUICK, target=Target(macs=0.5))}, "own target"),
    ],
)
def test_settings_without_meaning_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        SweepConfig(**settings)


@pytest.mark.parametrize("text", ["", "1,,2", "x", "1,x"])
def test_a_list_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="Use --seeds 0,1"):
        parse_list(text, "--seeds", int, "0,1")


# --- figures over seeds ---------------------------------------------------------------------


def figure(value, low, high, unit="points", n=100):
    return {"value": value, "unit": unit, "n": n, "low": low, "high": high, "level": 0.95}


def test_one_seed_keeps_its_own_interval():
    found = pool([figure(1.0, -0.5, 3.0)])
    assert (found.value, found.low, found.high, found.unit) == (1.0, -0.5, 3.0, "points")


def test_seeds_that_agree_do_not_narrow_what_they_share():
    found = pool([figure(1.0, -0.5, 3.0)] * 3)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, -0.5, 3.0))


def test_without_sampling_error_it_is_students_interval():
    values = [0.1, 0.7, 0.4, 0.2]
    found = pool([figure(v, v, v) for v in values])
    scale = stats.sem(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=scale)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_ratios_are_pooled_on_the_logarithm():
    found = pool([figure(2.0, 1.0, 4.0, "x"), figure(2.0, 1.0, 4.0, "x")], ratio=True)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 1.0, 4.0))
    turned = pool([figure(1.5, 1.2, 1.8), figure(3.0, 2.7, 3.3)], ratio=True)
    other = pool([figure(1 / 1.5, 1 / 1.8, 1 / 1.2), figure(1 / 3, 1 / 3.3, 1 / 2.7)], ratio=True)
    assert turned.value == pytest.approx(1 / other.value)
    assert (turned.low, turned.high) == pytest.approx((1 / other.high, 1 / other.low))


@pytest.mark.parametrize("figures", [[], [None], [figure(1, 0, 2), None], [{"value": 1.0}]])
def test_what_a_cell_lacks_is_not_pooled(figures):
    assert pool(figures) is None


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_interval_covers_the_mean_over_examples_and_seeds(shared):
    """Seeds differ by their training, and err together or apart on the same examples."""
    generator = torch.Generator().manual_seed(0)
    trials, seeds, sampling, training = 2000, 3, 0.5, 0.4

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    errors = shared * normal(trials, 1) + math.sqrt(1 - shared) * normal(trials, seeds)
    values = training * normal(trials, seeds) + sampling * errors  # the truth is 0
    half = 1.96 * sampling
    pooled = [pool([figure(v, v - half, v + half) for v in row]) for row in values.tolist()]
    covered = sum(q.low <= 0 <= q.high for q in pooled) / trials
    assert covered >= 0.945


def test_mean_and_deviation():
    assert spread([1.0, 3.0], "%") == {"value": 2.0, "unit": "%", "sd": pytest.approx(2**0.5)}
    assert spread([1.0], "%")["sd"] is None


# --- fronts ---------------------------------------------------------------------------------


@given(
    st.integers(1, 3).flatmap(
        lambda d: st.lists(st.tuples(*[st.integers(0, 5) | st.floats(0, 5)] * d), max_size=25)
    )
)
def test_the_front_is_what_brute_force_finds(points):
    def dominates(a, b):
        no_worse = all(x <= y for x, y in zip(a, b, strict=True))
        return no_worse and any(x < y for x, y in zip(a, b, strict=True))

    wanted = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert pareto_front(points) == wanted


def test_the_original_is_a_rival():
    settings = [{"runtime": "torch", "batch": 1}]
    rows = [
        {"error": {"value": error}, "ratios": {"macs": 2.0, "file": 3.0},
         "speedup": [Quantity(speedup, "x")]}
        for error, speedup in ((5.0, 0.9), (4.0, 1.2))
    ]  # fmt: skip
    mark_fronts([*rows, waiting := {"method": "taylor"}], 3.0, settings)
    assert rows[0]["front"] == []  # slower than the original, with more error
    assert rows[1]["front"] == ["macs", "file", "torch, batch 1"]
    assert waiting["front"] == []


def test_a_unit_more_or_less_puts_nothing_on_a_front():
    rows = [{"error": {"value": error}, "ratios": {"macs": ratio, "file": ratio}}
            for error, ratio in ((5.0, 2.003), (4.0, 2.0))]  # fmt: skip
    mark_fronts(rows, 3.0, [])
    assert [row["front"] for row in rows] == [[], ["macs", "file"]]


# --- tables ---------------------------------------------------------------------------------


def test_targets_in_words():
    assert target_text({"size": 500_000}) == "500 kB"
    assert target_text({"speedup": 2.0}) == "2x as fast"


def test_names_of_settings_leave_out_what_they_share():
    row = {"runtime": "torch", "device": "cpu", "threads": 1, "batch": 1}
    names, common = setting_names([row, {**row, "runtime": "onnxruntime"}])
    assert (names, common) == (["torch", "onnxruntime"], "cpu, 1 thread, batch 1")
    assert setting_names([row]) == ([""], "torch, cpu, 1 thread, batch 1")
    assert setting_names([]) == ([], "")


# --- the command, with pruning imitated -----------------------------------------------------


class Log(SilentProgress):
    """Keeps what was told."""

    def __init__(self):
        self.told = []

    def start(self, description, total=None):
        self.told.append(description)

    def note(self, text):
        self.told.append(text)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "net"
    bnnkit.train(ModelSpec(arch="bnnkit:digits-cnn"), DIGITS, QUICK.train, out=out)
    return out


@pytest.fixture
def pruned(monkeypatch):
    """Imitate `prune`: write a report with figures made of the settings; return the calls."""
    calls = []

    def prune(model, data, config, *, out, resume, progress, argv):
        assert resume
        calls.append(out.name)
        if config.target.size == 1:
            raise StructureError("Reaching 1 bytes", "900 bytes", "too much", "Ask for less.")
        share, seed = config.target.macs, config.train.seed
        rise = 1 / share + seed + (0.5 if config.method == "magnitude" else 0)
        models = [{"name": "original"}, {"name": "slim", "speedup": Quantity(2, "x", 9, 1.9, 2.1)}]
        bench = module.set_up(model, data)
        sections = {
            **bench.describe(),
            "method": {"name": config.method, "config": asdict(config.aimed(None))},
            "original": {"error": Quantity(3.0, "%", 40, 1, 5), "macs": 100, "file_bytes": 800},
            "slim": {"error": Quantity(3 + rise, "%", 40, 1, 9), "parameters": 10,
                     "macs": 100 * share, "file_bytes": 400},
            "paired": {"error_rise": Quantity(rise, "points", 40, rise - 1, rise + 1)},
            "ratios": {"macs": 1 / share, "file": 2.0, "parameters": 4.0},
            "latency": [{"runtime": "torch", "device": "cpu", "threads": 1, "batch": 1,
                         "models": models}],
        }  # fmt: skip
        out.mkdir(parents=True)
        (out / "report.json").write_text(Report("prune", {}, sections).to_json())

    monkeypatch.setattr(module, "prune", prune)
    monkeypatch.setattr(module, "render_html", lambda report: report.command)  # drawing is slow
    return calls


def run(model, out, config=HALF, **more):
    return bnnkit.sweep(model, DIGITS, config, out=out, **more)


def test_a_second_call_takes_over_what_is_done(original, pruned, tmp_path):
    first = run(original, tmp_path / "s")
    names = [f"{m}-macs0.5-s{s}" for s in (0, 1) for m in ("sbp", "magnitude")]
    assert pruned == names
    more = run(original, tmp_path / "s", replace(HALF, macs=(0.5, 0.25)), progress=(log := Log()))
    assert [name for name in pruned[4:]] == [n.replace("0.5", "0.25") for n in names]
    assert "cell 1 of 8, sbp-macs0.5-s0: done before" in log.told
    assert len(more.sections["sweep"]["rows"]) == 4
    again = run(original, tmp_path / "s")
    assert len(pruned) == 8
    assert again.to_dict()["sweep"] == first.to_dict()["sweep"]
    run(original, tmp_path / "s", force=True)
    assert pruned[8:] == names


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": replace(QUICK.train, epochs=3)}, "train.epochs was 2 and is now 3"),
        ({"exclude": ("conv1",)}, r"exclude was \[\] and is now \['conv1'\]"),
    ],
)
def test_other_settings_are_refused_and_nothing_runs(original, pruned, tmp_path, change, words):
    run(original, tmp_path / "s")
    other = replace(HALF, base=replace(QUICK, **change))
    with pytest.raises(UsageError, match=words):
        run(original, tmp_path / "s", other)
    (tmp_path / "s" / "report.json").unlink()
    with pytest.raises(UsageError, match=words):  # the cells' own reports tell it as well
        run(original, tmp_path / "s", other)
    assert len(pruned) == 4


def test_other_data_and_other_weights_are_refused(original, pruned, tmp_path):
    run(original, tmp_path / "s")
    with pytest.raises(UsageError, match="fingerprint"):
        bnnkit.sweep(original, DataSpec("digits", limit=100), HALF, out=tmp_path / "s")
    body = json.loads((tmp_path / "s" / "report.json").read_text())
    body["model"]["weights"] = "0" * 64
    (tmp_path / "s" / "report.json").write_text(json.dumps(body))
    with pytest.raises(UsageError, match="sha256 of the model's weights was '000"):
        run(original, tmp_path / "s")


def test_a_run_of_another_command_is_not_overwritten(original, pruned, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "report.json").write_text(Report("prune").to_json())
    with pytest.raises(UsageError, match="a run of 'bnnkit prune'"):
        run(original, tmp_path / "s", force=True)
    (tmp_path / "s" / "report.json").write_text("{")
    with pytest.raises(UsageError, match="no report of this version"):
        run(original, tmp_path / "s")
    assert pruned == []


def test_what_fails_is_recorded_and_tried_again(original, pruned, tmp_path):
    report = run(original, tmp_path / "s", replace(HALF, sizes=(1,), methods=("magnitude",)))
    assert exit_code(report) == 0
    cells = report.to_dict()["sweep"]["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed"] * 2
    assert cells[1]["why"] == "Reaching 1 bytes: 900 bytes; too much. Ask for less."
    table, failed = sweep_tables(report.to_dict())
    assert table.rows[2][:4] == ("magnitude", "1 B", "0 of 2", "-")
    assert failed.rows == (("magnitude-size1-s0, magnitude-size1-s1", "failed", cells[1]["why"]),)
    pruned.clear()
    report = run(original, tmp_path / "s", replace(HALF, sizes=(1,), methods=("magnitude",)))
    assert pruned == ["magnitude-size1-s0", "magnitude-size1-s1"]


def test_examples_that_decide_are_for_the_budgets_alone():
    cells = SweepConfig(
        macs=(0.5,), error_rises=(1.0,), seeds=(0,), base=replace(QUICK, val="0.3")
    ).cells()
    assert [cell.config.val for cell in cells] == ["auto", "0.3"]


def test_examples_that_decide_nothing_are_refused(original, pruned, tmp_path):
    with pytest.raises(UsageError, match=r"Reading --val: '0\.3'"):
        run(original, tmp_path / "s", replace(HALF, base=replace(QUICK, val="0.3")))
    assert pruned == []


def test_where_all_fail_the_exit_code_is_the_failures(original, pruned, tmp_path):
    config = replace(HALF, macs=(), sizes=(1,))
    report = run(original, tmp_path / "s", config)
    assert exit_code(report) == 2
    assert "Reaching 1 bytes" in render_html(report)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(HALF, methods=("spb",)), "Did you mean 'sbp'?"),
        (replace(HALF, macs=()), "--methods 'magnitude' without a target"),
        (replace(HALF, base=replace(QUICK, train=TrainConfig(epochs=0))), "no epoch is left"),
    ],
)
def test_refused_before_anything_runs(original, pruned, tmp_path, config, words):
    with pytest.raises(UsageError) as caught:
        run(original, tmp_path / "s", config)
    assert words in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_fresh_weights_are_no_model(tmp_path):
    with pytest.raises(UsageError, match="Name a checkpoint"):
        bnnkit.sweep(ModelSpec(arch="bnnkit:digits-cnn"), DIGITS, out=tmp_path / "s")


def test_rows_hold_what_the_cells_reports_say(original, pruned, tmp_path):
    report = run(original, tmp_path / "s")
    assert report.command == "sweep"
    row = report.to_dict()["sweep"]["rows"][1]
    assert (row["method"], row["target"], row["seeds"]) == ("magnitude", {"macs": 0.5}, [0, 1])
    assert row["error"] == {"value": 6.0, "unit": "%", "sd": pytest.approx(0.5**0.5)}
    assert row["error_rise"]["value"] == 3.0
    half = math.hypot(1.0, stats.t.ppf(0.975, 1) * 0.5)
    assert row["error_rise"]["high"] == pytest.approx(3 + half)
    assert row["ratios"]["macs"] == {"value": 2.0, "unit": "x", "sd": 0.0}
    assert row["speedup"][0]["value"] == pytest.approx(2.0)
    assert row["front"] == []  # sbp has half a point less at the same costs
    table = sweep_table(report.to_dict())
    assert table.rows[1][:4] == ("sbp", "50 % of MACs", "2", "5.50 ± 0.71 %")
    assert table.rows[1][-1] == "all"
    assert table.marked == {1}
    assert "40 inputs" in table.note


def test_the_page_and_the_summary(original, pruned, tmp_path):
    report = run(original, tmp_path / "s")
    page = render_html(report)
    assert page.count("<svg") == 3  # MACs, one setting, size
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Methods and targets" in to_markdown(report)
    assert "magnitude" in to_markdown(report)


def test_gates_say_that_they_judge_one_model(original, pruned, tmp_path):
    report = run(original, tmp_path / "s")
    with pytest.raises(UsageError, match=r"such as .*/cells/sbp-macs0.5-s0"):
        judge(report, GateOptions(max_error_rise=1.0))
    assert judge(report, GateOptions()).rows == []


# --- the command itself ---------------------------------------------------------------------


def test_a_cell_without_its_report_says_which_folder_to_remove(original, tmp_path):
    """`prune` would say --out or --force, which in a sweep mean something else."""
    config = replace(HALF, methods=("magnitude",), seeds=(0,))
    folder = tmp_path / "s" / "cells" / "magnitude-macs0.5-s0"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    (cell,) = run(original, tmp_path / "s", config).to_dict()["sweep"]["cells"]
    assert cell["status"] == "failed"
    assert cell["why"].endswith(f"Remove {str(folder)!r}, and run the same command again.")
    assert "--force" not in cell["why"]
    (folder / "model.safetensors").unlink()
    checkpoints = Checkpoints(folder, {"model": "another"}, resume=False, force=False)
    checkpoints.save(TrainState("finetune", 1, {}, {}, {}))
    (cell,) = run(original, tmp_path / "s", config).to_dict()["sweep"]["cells"]
    assert "the broken run had other settings. Remove " in cell["why"]


def test_pooled_rows_of_real_cells_resumed_after_an_interruption(original, tmp_path, monkeypatch):
    """The figures of two methods are those of their runs; a run broken off goes on."""
    quick = partial(latency_table, seconds=0.1)
    monkeypatch.setattr(original_timing, "latency_table", quick)
    out, config = tmp_path / "s", replace(HALF, seeds=(0,))

    class Stop(Log):
        def start(self, description, total=None):
            super().start(description, total)
            if "magnitude" in str(self.told) and description.startswith("epoch 2/2"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"cell 2 of 2, magnitude.* same command"):
        run(original, out, config, progress=Stop())
    body = json.loads((out / "report.json").read_text())
    assert [cell["status"] for cell in body["sweep"]["cells"]] == ["done", "waiting"]
    assert (out / "report.html").read_text().count("<svg") == 3
    finished = out / "cells" / "sbp-macs0.5-s0" / "report.json"
    written = finished.stat().st_mtime_ns
    report = run(original, out, config, progress=(log := Log()))
    assert finished.stat().st_mtime_ns == written
    assert "epoch 2/2" in log.told
    assert "epoch 1/2" not in log.told  # it was done before
    for row in report.to_dict()["sweep"]["rows"]:
        name = f"{row['method']}-macs0.5-s0"
        cell = json.loads((out / "cells" / name / "report.json").read_text())
        assert row["error"]["value"] == cell["slim"]["error"]["value"]
        assert row["error_rise"] == cell["paired"]["error_rise"]
        assert row["ratios"]["macs"]["value"] == cell["ratios"]["macs"] >= 2
        speedup = cell["latency"][0]["models"][1]["speedup"]
        assert row["speedup"][0]["value"] == pytest.approx(speedup["value"])
    assert pooled_rows(report.to_dict()["sweep"]["cells"])[0]["planned"] == 1
