"""What `prune` can be asked for, and what makes no sense."""

import pytest

from bnnkit.errors import UsageError
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import (
    PruneConfig,
    RecoveryConfig,
    SbpConfig,
    Target,
    finetune_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("1kB", 1000), ("2 MiB", 2 << 20), ("0.5gb", 500_000_000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 TB", "one", "1.2.3kB"])
def test_no_sizes(text):
    with pytest.raises(UsageError, match="--target-size"):
        parse_size(text)


@pytest.mark.parametrize(
    "values",
    [
        {"macs": 0.0}, {"macs": 1.0}, {"macs": float("nan")}, {"size": 0}, {"speedup": 1.0},
        {"speedup": float("inf")}, {"error_rise": float("nan")}, {"macs": 0.5, "size": 100},
    ],
)  # fmt: skip
def test_targets_without_meaning_are_refused(values):
    with pytest.raises(UsageError):
        Target(**values)


@pytest.mark.parametrize("values", [{"finetune": 1.5}, {"distill": -0.1}, {"temperature": 0.0},
                                    {"reestimate": -1}])  # fmt: skip
def test_recoveries_without_meaning_are_refused(values):
    with pytest.raises(UsageError):
        RecoveryConfig(**values)


def test_towards_a_target_the_original_is_asked_unless_it_is_stated_otherwise():
    def weight(**values):
        return PruneConfig(**values).aimed(None).recovery.distill

    assert weight(target=Target(macs=0.5)) == 0.9
    assert weight(target=Target(macs=0.5), recovery=RecoveryConfig(distill=0.0)) == 0.0
    assert weight() == 0.0
    assert PruneConfig().aimed(GateOptions(max_error_rise=0.5)).recovery.distill == 0.9


def test_gates_are_targets_where_none_is_stated():
    gates = GateOptions(max_error_rise=0.5, min_mac_ratio=4.0, min_speedup=2.0)
    assert PruneConfig().aimed(gates).target == Target(macs=0.25, error_rise=0.5)
    stated = PruneConfig(target=Target(size=1000))
    assert stated.aimed(gates).target == Target(size=1000, error_rise=0.5)
    assert PruneConfig().aimed(None).target == Target()
    assert PruneConfig(removal_seed=1).aimed(gates).target == Target()
    assert not PruneConfig().aimed(GateOptions(max_ece=2.0, min_mac_ratio=1.0)).target


def test_the_share_of_fine_tuning_is_said_once():
    assert finetune_share(None, None, 10) == RecoveryConfig().finetune
    assert finetune_share(0.4, None, 10) == 0.4
    assert finetune_share(None, 3, 10) == 0.3
    for bad in ((0.4, 3, 10), (None, 11, 10)):
        with pytest.raises(UsageError, match="--finetune-epochs"):
            finetune_share(*bad)


def test_where_latency_is_timed():
    at = PruneConfig(target=Target(speedup=2.0, speedup_at="batch=64")).timed_at()
    assert at == {"runtime": "onnxruntime", "device": "cpu", "threads": "1", "batch": "64"}
    assert PruneConfig(formats=()).timed_at()["runtime"] == "torch"
    with pytest.raises(UsageError, match="batch=many"):
        PruneConfig(target=Target(speedup=2.0, speedup_at="batch=many")).timed_at()


@pytest.mark.parametrize(
    ("config", "epochs", "calm"),
    [
        (PruneConfig(), 4, 1),
        (PruneConfig(), 2, 1),
        (PruneConfig(), 1, 0),
        (PruneConfig(target=Target(macs=0.5)), 10, 6),
        (PruneConfig(target=Target(macs=0.5)), 1, 0),
        (PruneConfig(recovery=RecoveryConfig(finetune=0.0)), 4, 0),
        (PruneConfig(recovery=RecoveryConfig(finetune=0.1)), 2, 1),
        (PruneConfig(recovery=RecoveryConfig(finetune=1.0)), 4, 4),
    ],
)
def test_the_slim_net_is_trained_wherever_there_is_an_epoch_to_spare(config, epochs, calm):
    assert config.calm_epochs(epochs) == calm


def test_noise_is_drawn_for_examples_or_for_batches():
    assert SbpConfig().noise == "example"
    with pytest.raises(UsageError, match="--noise: 'pixel'"):
        SbpConfig(noise="pixel")
