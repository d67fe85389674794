"""`prune` towards a target, under a budget, and with help from the original."""

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import bnnkit
from bnnkit.errors import UsageError
from bnnkit.graph.count import count_macs
from bnnkit.methods.forget import disturb
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.evaluate import compare
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import choose_device, choose_precision
from bnnkit.run.progress import SilentProgress
from bnnkit.run.pruning.budget import _Search, round_epochs
from bnnkit.run.pruning.held_out import hold_out
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.reference import Reference, added
from bnnkit.run.setup import as_data_spec, as_model_spec, set_up
from bnnkit.spec import DataSpec, ModelSpec, Quantity
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig, RecoveryConfig, SbpConfig, Target

TRAIN = TrainConfig(epochs=6, batch_size=64, lr=2e-3, threads=1)
QUICK = {"formats": (), "batches": (1,)}
RECOVERY = RecoveryConfig(distill=0.5, reestimate=4)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A net trained on digits."""
    out = tmp_path_factory.mktemp("targets") / "original"
    train = TrainConfig(epochs=6, batch_size=64, lr=3e-3, threads=1)
    bnnkit.train(ModelSpec(arch="bnnkit:digits-cnn"), DataSpec("digits"), train, out=out)
    return out


def job_of(original, config):
    data = as_data_spec("digits")
    bench = set_up(as_model_spec(str(original)), data, seed=0)
    return Job(bench, data, config, choose_device("cpu"), SilentProgress(), ())


def fresh_digits(folder):
    """Write digits that no part of the data holds: moved by a pixel."""
    digits = load_digits()
    path = folder / "fresh.npz"
    images = np.roll(digits.images, 1, axis=2)[:, None] * 15
    np.savez(path, x=images.astype(np.uint8), y=digits.target)
    return str(path)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_multiply_accumulates_come_down_to_what_was_asked(original, tmp_path, share):
    config = PruneConfig("sbp", train=TRAIN, target=Target(macs=share), recovery=RECOVERY, **QUICK)
    report = bnnkit.prune(original, "digits", config, out=tmp_path / "slim")
    ratio = report.sections["ratios"]["macs"]
    assert 1 / share <= ratio < 1.15 / share
    assert count_macs(bnnkit.load(tmp_path / "slim"), (1, 8, 8)) == report.sections["slim"]["macs"]
    assert report.sections["slim"]["error"].value < 10
    assert all(check["passed"] for check in report.sections["checks"])
    assert report.sections["curve"][0]["kl_scale"] > 0


def test_the_file_comes_down_to_the_size_asked(original, tmp_path):
    config = PruneConfig(
        "sbp", train=TRAIN, target=Target(size=60_000), recovery=RECOVERY, **QUICK
    )
    report = bnnkit.prune(original, "digits", config, out=tmp_path / "slim")
    written = (tmp_path / "slim" / "model.safetensors").stat().st_size
    assert report.sections["slim"]["file_bytes"] == written
    assert 50_000 < written <= 60_000


def test_a_gate_on_the_ratio_is_the_target_as_well(original, tmp_path):
    config = PruneConfig("sbp", train=TRAIN, recovery=RECOVERY, **QUICK)
    report = bnnkit.prune(
        original, "digits", config, out=tmp_path / "slim", gates=GateOptions(min_mac_ratio=3.0)
    )
    assert report.sections["ratios"]["macs"] >= 3.0
    assert report.gates[0]["verdict"] == "pass"


def test_the_budget_decides_how_much_goes(original, tmp_path):
    config = PruneConfig("sbp", train=TRAIN, recovery=RECOVERY, val="0.5", **QUICK)
    report = bnnkit.prune(
        original, "digits", config, out=tmp_path / "slim", gates=GateOptions(max_error_rise=6.0)
    )
    rounds = report.sections["search"]["rounds"]
    assert [row["round"] for row in rounds] == [1, 2]
    held = [row for row in rounds if row["held"]]
    assert held
    assert all((row["error_rise"].high <= 6.0) == row["held"] for row in rounds)
    assert all(b["share"] < a["share"] for a, b in pairwise(held))
    reached = report.sections["slim"]["macs"] / report.sections["original"]["macs"]
    assert reached == pytest.approx(held[-1]["share"])
    assert report.sections["paired"]["error_rise"].value < 6.0


def test_what_decides_is_neither_trained_on_nor_tested_on(original):
    job = job_of(original, PruneConfig(target=Target(error_rise=3.0)))
    examples = hold_out(job)
    train, held = examples.train, examples.held
    images = [
        {x.numpy().tobytes() for x in torch.cat([x for x, _ in part.batches(256)])}
        for part in (train, held, job.bench.data.test)
    ]
    assert len(train) + len(held) == len(job.bench.data.train)
    assert not images[0] & images[1]
    assert not images[1] & images[2]
    assert examples.origin.endswith("of the training part")
    assert examples.known


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PruneConfig(target=Target(error_rise=0.1)), "held-out examples for a budget of 0.1"),
        (PruneConfig(target=Target(error_rise=3.0), val="1.5"), "a share lies between"),
        (PruneConfig(target=Target(macs=1e-4)), "with everything closed that can be"),
        (PruneConfig(target=Target(size=100)), "with everything closed that can be"),
        (PruneConfig(sbp=SbpConfig(kl_scales={"nothing": 2.0})), "no removable layer"),
    ],
)
def test_what_cannot_come_true_is_refused_before_training(original, tmp_path, config, message):
    with pytest.raises(UsageError, match=message):
        bnnkit.prune(original, "digits", config, out=tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def test_a_reference_that_was_harmed_is_charged_and_a_better_one_is_no_credit():
    rise = Quantity(0.4, "points", 1000, 0.1, 0.7, 0.95)
    worse = added(rise, Quantity(0.3, "points", 1000, -0.1, 0.7, 0.95))
    assert worse.value == pytest.approx(0.7)
    assert worse.high == pytest.approx(0.7 + 0.5)  # hypot of half-widths .3 and .4
    assert worse.low == pytest.approx(0.7 - 0.5)
    assert added(rise, Quantity(-0.3, "points", 1000, -0.5, -0.1, 0.95)) == rise


def test_the_rise_is_the_tighter_of_two_upper_bounds(original, tmp_path):
    job = job_of(original, PruneConfig(train=TRAIN, target=Target(error_rise=0.6), val="0.5"))
    examples = hold_out(job)
    checkpoints = Checkpoints(tmp_path, {}, resume=False, force=False)
    reference = Reference(job, examples, checkpoints)
    assert reference.rise(job.original, 1, 1, "round 1").value == 0.0
    assert reference.epochs == 0  # nothing is trained where the original itself is measure enough

    def trained(seed):
        model, source = copy.deepcopy(job.original), torch.Generator().manual_seed(seed)
        seen = examples.train.take(len(examples.held), source)
        disturb(model, source)
        precision = choose_precision("auto", job.device)
        config = replace(TRAIN, epochs=1)
        Trainer(model, examples.train, config, precision, job.device).run(0, 1)
        return model.eval(), seen

    slim, _ = trained(seed=5)
    found = reference.rise(slim, 1, 1, "round 2")
    assert reference.epochs == 1
    rival, seen = trained(TRAIN.seed)
    predict = partial(job.predict, what="")
    beside = {
        name: compare(predict(model, examples.held), predict(slim, examples.held))["error_rise"]
        for name, model in (("original", job.original), ("reference", rival))
    }
    drift = compare(predict(job.original, seen), predict(rival, seen))["error_rise"]
    bounds = [beside["original"], added(beside["reference"], drift)]
    assert found.high == pytest.approx(min(bound.high for bound in bounds))
    reference.rise(slim, 1, 1, "round 3")  # the same depth is not trained for again
    assert reference.epochs == 1


def test_fresh_data_need_no_reference(original, tmp_path):
    config = PruneConfig(target=Target(error_rise=0.6), val=fresh_digits(tmp_path))
    job = job_of(original, config)
    checkpoints = Checkpoints(tmp_path, {}, resume=False, force=False)
    reference, slim = Reference(job, hold_out(job), checkpoints), copy.deepcopy(job.original)
    disturb(slim, torch.Generator().manual_seed(0))
    assert reference.rise(slim, 1, 1, "round 1").value > 5
    assert reference.epochs == 0


@pytest.mark.parametrize(("held", "failed", "step"), [(1.0, 0.0, 0.6), (1.0, 0.6, 0.6**0.5)])
def test_the_next_step_lies_between_what_held_and_what_failed(held, failed, step):
    search = _Search(held, failed)
    assert search.step() == pytest.approx(step)
    search.saw(0.8, Quantity(0.1, "points", 10, -0.1, 0.2, 0.95), True, 0.5)
    assert search.held == 0.8
    assert search.boldness == pytest.approx(0.36)
    search.saw(0.7, Quantity(0.6, "points", 10, 0.4, 0.8, 0.95), False, 0.5)
    assert search.step() == pytest.approx((0.7 / 0.8) ** 0.5)
    search.saw(0.7, Quantity(0.6, "points", 10, 0.4, 0.8, 0.95), False, 0.5)
    assert search.step() == 1.0  # the same net again: the search is over


@pytest.mark.parametrize("steps", [1, 40, 1000])
@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 10, 40])
def test_rounds_share_all_epochs(epochs, steps):
    rounds = round_epochs(epochs, steps)
    assert [e for r in rounds for e in r] == list(range(epochs))
    assert len(rounds) <= 6
    assert len(rounds) == 1 or min(map(len, rounds)) >= 2
