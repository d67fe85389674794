"""`demo`: train, prune, prove and time a small net on the embedded digits, offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnnkit.errors import UsageError
from bnnkit.io.rundir import is_run_directory
from bnnkit.run.progress import Progress
from bnnkit.run.prune import prune
from bnnkit.run.train import train
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig, SbpConfig

__all__ = ["DEMO_PRUNE", "DEMO_TRAIN", "demo"]

DEMO_TRAIN = TrainConfig(epochs=6, batch_size=64, lr=3e-3)
# A thousand images are few against the KL of a unit, and 20 epochs of them are few steps: the
# scale stands in for the many epochs that the unscaled evidence would take.
DEMO_PRUNE = PruneConfig(
    train=TrainConfig(epochs=16, batch_size=64, lr=3e-3),
    sbp=SbpConfig(kl_scale=3.0, noise_lr=3e-2),
)


def demo(
    out: str | Path = "digits-demo",
    *,
    gates: GateOptions | None = None,
    force: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Run the main job on embedded data; `out/original` and `out/slim` are run directories.

    Args:
        out: Where both run directories go.
        gates: Limits that the report judges itself by.
        force: Replace earlier ones.
        seed: Seed of everything.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Raises:
        UsageError: `out` holds an earlier demo, and `force` was not given.
    """
    out = Path(out)
    if is_run_directory(out / "slim") and not force:
        raise UsageError(
            "Running the demo", repr(str(out)), "an earlier demo is there",
            "Replace it with --force, or name another directory with --out.",
        )  # fmt: skip
    data = DataSpec("digits")
    train(
        ModelSpec(arch="bnnkit:digits-cnn"),
        data,
        replace(DEMO_TRAIN, seed=seed),
        out=out / "original",
        force=True,
        progress=progress,
        argv=argv,
    )
    config = replace(DEMO_PRUNE, train=replace(DEMO_PRUNE.train, seed=seed))
    return prune(
        ModelSpec(file=str(out / "original")),
        data,
        config,
        out=out / "slim",
        gates=gates,
        force=True,
        progress=progress,
        argv=argv,
    )
