"""`prune` towards a target, under a budget, and with help from the original."""

from itertools import pairwise

import pytest
import torch

import bnnkit
from bnnkit.errors import UsageError
from bnnkit.graph.count import count_macs
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import SilentProgress
from bnnkit.run.pruning.budget import round_epochs
from bnnkit.run.pruning.held_out import hold_out
from bnnkit.run.pruning.job import Job
from bnnkit.run.setup import as_data_spec, as_model_spec, set_up
from bnnkit.spec import DataSpec, ModelSpec
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


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_multiply_accumulates_come_down_to_what_was_asked(original, tmp_path, share):
    config = PruneConfig(train=TRAIN, target=Target(macs=share), recovery=RECOVERY, **QUICK)
    report = bnnkit.prune(original, "digits", config, out=tmp_path / "slim")
    ratio = report.sections["ratios"]["macs"]
    assert 1 / share <= ratio < 1.15 / share
    assert count_macs(bnnkit.load(tmp_path / "slim"), (1, 8, 8)) == report.sections["slim"]["macs"]
    assert report.sections["slim"]["error"].value < 10
    assert all(check["passed"] for check in report.sections["checks"])
    assert report.sections["curve"][0]["kl_scale"] > 0


def test_the_file_comes_down_to_the_size_asked(original, tmp_path):
    config = PruneConfig(train=TRAIN, target=Target(size=60_000), recovery=RECOVERY, **QUICK)
    report = bnnkit.prune(original, "digits", config, out=tmp_path / "slim")
    assert 50_000 < report.sections["slim"]["file_bytes"] <= 60_000


def test_a_gate_on_the_ratio_is_the_target_as_well(original, tmp_path):
    config = PruneConfig(train=TRAIN, recovery=RECOVERY, **QUICK)
    report = bnnkit.prune(
        original, "digits", config, out=tmp_path / "slim", gates=GateOptions(min_mac_ratio=3.0)
    )
    assert report.sections["ratios"]["macs"] >= 3.0
    assert report.gates[0]["verdict"] == "pass"


def test_the_budget_decides_how_much_goes(original, tmp_path):
    config = PruneConfig(train=TRAIN, recovery=RECOVERY, val="0.5", **QUICK)
    report = bnnkit.prune(
        original, "digits", config, out=tmp_path / "slim", gates=GateOptions(max_error_rise=6.0)
    )
    rounds = report.sections["search"]["rounds"]
    assert [row["round"] for row in rounds] == [1, 2, 3]
    held = [row for row in rounds if row["held"]]
    assert held
    assert all((row["error_rise"].high <= 6.0) == row["held"] for row in rounds)
    assert all(b["share"] < a["share"] for a, b in pairwise(held))
    reached = report.sections["slim"]["macs"] / report.sections["original"]["macs"]
    assert reached == pytest.approx(held[-1]["share"])
    assert report.sections["paired"]["error_rise"].value < 6.0


def test_what_decides_is_neither_trained_on_nor_tested_on(original):
    job = job_of(original, PruneConfig(target=Target(error_rise=3.0)))
    train, held, origin = hold_out(job)
    images = [
        {x.numpy().tobytes() for x in torch.cat([x for x, _ in part.batches(256)])}
        for part in (train, held, job.bench.data.test)
    ]
    assert len(train) + len(held) == len(job.bench.data.train)
    assert not images[0] & images[1]
    assert not images[1] & images[2]
    assert origin.endswith("of the training part")
    named = job_of(original, PruneConfig(target=Target(error_rise=3.0), val="digits"))
    assert hold_out(named)[2] == "the test part of digits"


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


@pytest.mark.parametrize("epochs", [0, 1, 2, 3, 7, 10, 40])
def test_rounds_share_all_epochs(epochs):
    rounds = round_epochs(epochs)
    assert [e for r in rounds for e in r] == list(range(epochs))
    assert len(rounds) <= 6
    assert len(rounds) == 1 or min(map(len, rounds)) >= 2
