"""What a run refuses at once: each of these would otherwise be refused after hours of training."""

import re
import stat

import pytest
import torch
from torch import nn

import bnnkit
from bnnkit.errors import ArchitectureError, StructureError, UsageError
from bnnkit.run.request import check_place, check_prune, check_rows, copied
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig, RecoveryConfig, Target


def test_a_folder_of_somebody_is_refused_even_with_force(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(UsageError, match=r"precious\.txt"):
        check_place(tmp_path, force=True)
    with pytest.raises(UsageError, match="file or a link"):
        check_place(tmp_path / "precious.txt", force=True)
    with pytest.raises(UsageError, match="no folder to write into"):
        check_place(tmp_path / "precious.txt" / "run", force=False)


def test_an_empty_folder_and_a_new_one_are_welcome(tmp_path):
    check_place(tmp_path / "a" / "b", force=False)
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", force=False)


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert stat.S_ISDIR(tmp_path.stat().st_mode)
    with pytest.raises(UsageError, match="no folder to write into"):
        check_place(tmp_path / "run", force=False)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_run_that_would_learn_nothing_is_refused(share):
    train = TrainConfig(epochs=0 if share < 1 else 4)
    with pytest.raises(UsageError, match="no epoch is left"):
        check_prune(PruneConfig(train=train, recovery=RecoveryConfig(finetune=share)))
    check_prune(PruneConfig(train=TrainConfig(epochs=0), removal_seed=1))


@pytest.mark.parametrize("at", ["batch=7", "threads=3", "runtime=onnxruntime", "runtime=x"])
def test_a_gate_on_what_is_not_timed_is_refused(at):
    gates = GateOptions(min_speedup=1.0, speedup_at=at)
    with pytest.raises(UsageError, match="this run measures"):
        check_prune(PruneConfig(formats=()), gates)


def test_a_gate_on_what_is_timed_passes():
    at = "batch=32,threads=1,runtime=onnxruntime,device=cpu"
    check_prune(PruneConfig(), GateOptions(min_speedup=1.0, speedup_at=at))
    check_prune(PruneConfig(), GateOptions(min_speedup=1.0, speedup_at="device=cuda,threads=9"))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("foo=1", "the key 'foo'"),
        ("runtime=tflite", "onnxruntime or torch"),
        ("runtime=torch+graph", "Did you mean 'torch'"),
        ("device=tpu", "it is cpu or cuda"),
        ("runtime=onnxruntime,device=cuda", "on the CPU only"),
        ("batch=0", "a number above 0"),
    ],
)
def test_a_target_is_timed_by_what_layers_can_be_timed_by(at, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        PruneConfig(target=Target(speedup=2.0, speedup_at=at))
    with pytest.raises(UsageError, match=re.escape(words)):
        PruneConfig(cost="latency", target=Target(macs=0.5, speedup_at=at))


def test_a_gate_beside_another_target_may_look_at_more_runtimes():
    at = "runtime=torch+graph,device=cuda"
    gates = GateOptions(min_speedup=1.5, speedup_at=at)
    config = PruneConfig(target=Target(macs=0.5)).aimed(gates)
    check_prune(config, gates)
    assert config.target.speedup is None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(), "there is none. Add --max-error-rise"),
        (Target(macs=0.5), "there is none. Add --max-error-rise"),
        (Target(macs=0.5, error_rise=0.5), "the budget only judges"),
    ],
)
def test_examples_to_decide_without_a_budget_are_refused(target, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        check_prune(PruneConfig(val="0.2", target=target))
    check_prune(PruneConfig(target=target))
    check_prune(PruneConfig(val="0.2", target=Target(error_rise=0.5)))


def test_a_gate_is_a_budget_to_decide_about():
    gates = GateOptions(max_error_rise=0.5)
    check_prune(PruneConfig(val="0.2").aimed(gates), gates)


@pytest.mark.parametrize(
    "bad",
    [{"lr": float("nan")}, {"lr": -1.0}, {"optimiser": "adamw"}, {"precision": "fp16"},
     {"weight_decay": -1.0}, {"batch_size": 1}, {"epochs": -1}],
)  # fmt: skip
def test_training_settings_without_a_meaning_are_refused(bad):
    option = "--" + next(iter(bad)).replace("_", "-")
    with pytest.raises(UsageError, match=option):
        TrainConfig(**bad)


def test_answers_that_depend_on_the_batch_are_refused():
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    head = [nn.Flatten(), nn.Linear(48, 5)]
    check_rows(nn.Sequential(nn.BatchNorm2d(3), *head).eval(), x)
    with pytest.raises(StructureError, match="track_running_stats"):
        check_rows(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), *head).eval(), x)

    class Squeezed(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).squeeze()

    with pytest.raises(StructureError, match="one row an input"):
        check_rows(Squeezed(), x)


def test_a_module_that_cannot_be_copied_is_a_refusal():
    with pytest.raises(StructureError, match="remove_weight_norm"):
        copied(nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3))))


def test_a_pickle_without_an_architecture_is_refused_before_training(tmp_path):
    file = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)), file)
    spec = ModelSpec(file=str(file), trust_pickle=True)
    for run, config in ((bnnkit.prune, PruneConfig()), (bnnkit.train, TrainConfig())):
        with pytest.raises(ArchitectureError, match="--arch"):
            run(spec, DataSpec("digits", limit=100), config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_replace_what_it_reads(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "report.json").write_text("{}")
    (run / "model.safetensors").touch()
    for read in (run, run / "model.safetensors", run / "checkpoint" / ".." / "model.safetensors"):
        with pytest.raises(UsageError, match="reads it"):
            check_place(run, force=True, reads=[None, read])
    check_place(run, force=True, reads=[tmp_path / "other.pt"])
    check_place(tmp_path / "next", force=False, reads=[run])
