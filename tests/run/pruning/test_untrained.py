"""Pruning that trains nothing: the posterior decides, least squares takes over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import bnnkit
from bnnkit.errors import UsageError
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig, RecoveryConfig, SbpConfig, Target

NOTHING = TrainConfig(epochs=0, batch_size=64, threads=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net trained on digits."""
    out = tmp_path_factory.mktemp("untrained") / "original"
    train = TrainConfig(epochs=6, batch_size=64, lr=3e-3, threads=1)
    bnnkit.train(ModelSpec(arch="bnnkit:digits-cnn"), DataSpec("digits"), train, out=out)
    return out


def pruned(original: Path, out: Path, share: float = 0.4, **settings: object) -> Report:
    config = PruneConfig(
        train=NOTHING, target=Target(macs=share), formats=(), batches=(1,), **settings
    )  # type: ignore[arg-type]
    return bnnkit.prune(original, "digits", config, out=out)


def test_half_and_more_goes_without_an_epoch(original: Path, tmp_path: Path) -> None:
    report = pruned(original, tmp_path / "slim")
    sections = report.sections
    assert sections["method"]["name"] == "laplace"
    assert sections["ratios"]["macs"] >= 2.5
    assert sections["curve"] == []
    assert all(check["passed"] for check in sections["checks"])
    assert sections["paired"]["error_rise"].value < 5
    assert all(row["after"] <= row["before"] + 1e-9 for row in sections["refitted"])
    assert all(len(row["loss"]) == row["size"] for row in sections["classes"])


def test_refitting_is_what_keeps_the_net_together(original: Path, tmp_path: Path) -> None:
    with_it = pruned(original, tmp_path / "a", share=0.2)
    without = pruned(original, tmp_path / "b", share=0.2, recovery=RecoveryConfig(reconstruct=0))
    assert without.sections["refitted"] == []
    nll = [r.sections["slim"]["nll"].value for r in (with_it, without)]
    assert nll[0] < 0.7 * nll[1]
    kept = [[row["kept"] for row in r.sections["classes"]] for r in (with_it, without)]
    assert kept[0] == kept[1]


def test_a_run_can_be_repeated_to_the_digit(original: Path, tmp_path: Path) -> None:
    first, second = (pruned(original, tmp_path / name) for name in "ab")
    assert first.sections["slim"]["nll"] == second.sections["slim"]["nll"]


def test_an_error_budget_is_held_without_an_epoch(original: Path, tmp_path: Path) -> None:
    digits = load_digits()
    images = np.roll(digits.images, 1, axis=2)[:, None] * 15  # nobody has seen these
    np.savez(tmp_path / "fresh.npz", x=images.astype(np.uint8), y=digits.target)
    config = PruneConfig(
        train=NOTHING, target=Target(error_rise=4.0), formats=(), batches=(1,),
        val=str(tmp_path / "fresh.npz"),
    )  # fmt: skip
    report = bnnkit.prune(original, "digits", config, out=tmp_path / "slim")
    assert report.sections["ratios"]["macs"] > 1.2
    assert 2 <= len(report.sections["search"]["rounds"]) <= 6
    assert report.sections["search"]["reference_epochs"] == 0
    assert report.sections["paired"]["error_rise"].value < 4


@pytest.mark.parametrize(
    ("config", "gates", "method"),
    [
        (PruneConfig(), None, "sbp"),
        (PruneConfig(target=Target(macs=0.5)), None, "laplace"),
        (PruneConfig(), GateOptions(min_mac_ratio=2.0), "laplace"),
        (PruneConfig(target=Target(macs=0.5), sbp=SbpConfig(kl_scale=2)), None, "sbp"),
        (PruneConfig(target=Target(macs=0.5), method="taylor"), None, "taylor"),
        (PruneConfig(removal_seed=1), GateOptions(min_mac_ratio=2.0), "sbp"),
    ],
)
def test_the_method_follows_from_what_is_asked(
    config: PruneConfig, gates: GateOptions | None, method: str
) -> None:
    assert config.aimed(gates).method == method


def test_what_the_original_knows_by_heart_is_no_judge_of_an_untrained_net(original: Path) -> None:
    config = PruneConfig(train=NOTHING, target=Target(error_rise=4.0), val="0.3")
    with pytest.raises(UsageError, match=r"knows by heart.*--val"):
        bnnkit.prune(original, "digits", config)


def test_evidence_that_only_ranks_is_refused_without_a_target(original: Path) -> None:
    with pytest.raises(UsageError, match="cannot tell how many"):
        bnnkit.prune(original, "digits", PruneConfig(method="laplace", train=NOTHING))


def test_a_method_that_has_to_learn_is_refused_without_an_epoch(original: Path) -> None:
    config = PruneConfig(method="sbp", train=NOTHING, target=Target(macs=0.5))
    with pytest.raises(UsageError, match="--method laplace"):
        bnnkit.prune(original, "digits", config)
