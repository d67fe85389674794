"""Runs of `prune` with nothing to reach, and runs that cannot be gone on with."""

from dataclasses import replace

import pytest

import bnnkit
from bnnkit.errors import TrainingError
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.prune import PruneConfig, Target

DIGITS = DataSpec("digits", limit=200)
QUICK = PruneConfig(
    method="magnitude", train=TrainConfig(epochs=1, batch_size=50, threads=1), batches=(1,),
    formats=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    out = tmp_path_factory.mktemp("ends") / "net"
    bnnkit.train(ModelSpec(arch="bnnkit:digits-cnn"), DIGITS, QUICK.train, out=out)
    return out


def test_a_target_that_the_original_meets_is_told(original, tmp_path):
    config = replace(QUICK, target=Target(size=10_000_000))
    report = bnnkit.prune(original, DIGITS, config, out=tmp_path / "run")
    (note,) = [n for n in report.sections["model"]["notes"] if "from the start" in n]
    size = report.sections["original"]["file_bytes"]
    assert f"the original has {size:,} bytes, and 10,000,000 were asked for" in note
    assert all(row["kept"] == row["size"] for row in report.sections["classes"])


def test_a_target_that_has_to_be_reached_is_not(original, tmp_path):
    config = replace(QUICK, target=Target(size=100_000))
    report = bnnkit.prune(original, DIGITS, config, out=tmp_path / "run")
    assert "from the start" not in str(report.sections["model"]["notes"])


@pytest.mark.parametrize("method", ["sbp", "sparse-vd"])
def test_a_rate_that_breaks_the_statistics_is_named_and_nothing_is_left(
    original, tmp_path, method
):
    train = replace(QUICK.train, epochs=2, lr=1e9)
    with pytest.raises(TrainingError, match=r"running_var' is not finite.*1e\+09.*Use --lr 0\.1"):
        bnnkit.prune(
            original, DIGITS, replace(QUICK, method=method, train=train), out=tmp_path / "run"
        )
    assert list(tmp_path.iterdir()) == []
