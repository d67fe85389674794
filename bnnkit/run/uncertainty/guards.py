"""What somebody who fits batch-norm noise should be told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnnkit.io.rundir import REPORT_JSON
from bnnkit.metrics import error_each
from bnnkit.run.setup import Bench
from bnnkit.run.uncertainty.side_by_side import Way
from bnnkit.spec.config import SbnConfig

__all__ = ["advice", "reads_batches", "trained_batch_size"]

_MOVED = 0.01
_MEMORISED = 0.03


def trained_batch_size(file: str | None) -> int | None:
    """Return the batch size of the training where a run directory of ours tells it."""
    if file is None:
        return None
    path = Path(file)
    report = (path if path.is_dir() else path.parent) / REPORT_JSON
    try:
        body = json.loads(report.read_text(encoding="utf-8"))
        config = body["method"]["config"]
        found = config.get("train", config)["batch_size"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    trained = body.get("command") in ("train", "prune", "demo")
    return found if trained and isinstance(found, int) and found > 1 else None


def reads_batches(net: nn.Module) -> bool:
    """Tell whether a net in eval mode normalises by the batch, for want of running statistics."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is None for m in net.modules())


def advice(
    ways: Sequence[Way], rows: Sequence[Mapping[str, Any]], config: SbnConfig, bench: Bench
) -> list[str]:
    """Return warnings that the figures themselves give rise to.

    Args:
        ways: What was measured, plain batch norm first.
        rows: Their figures.
        config: What was asked for.
        bench: The model and its data.
    """
    out = []
    named = {way.name: row for way, row in zip(ways, rows, strict=True)}
    error = rows[0]["error"].value
    chance = 100 * (1 - 1 / bench.data.test.classes)
    if error > 0.8 * chance:
        out.append(
            f"The original itself has {error:.1f} % error, near chance: are the weights, "
            "--normalize, --mean and --std right?"
        )
    moved = named["means"]["paired"]["nll_rise"]
    if abs(moved.value) > _MOVED and (moved.low > 0 or moved.high < 0):
        out.append(
            f"The fitted means alone move NLL by {moved.value:+.3f} nats "
            f"[{moved.low:+.3f}, {moved.high:+.3f}]: the checkpoint's running statistics are not "
            "those of these batches, as after a short training, or where the data, their "
            "augmentation or normalisation are not those of the training. Part of any change "
            "is this re-estimation."
        )
    if config.samples == 1:
        out.append(
            "K = 1 gives one random net instead of an average: it is usually worse than plain "
            "batch norm; use --samples 10 or more."
        )
    held = _memorised(ways, config)
    return out + ([held] if held else [])


def _memorised(ways: Sequence[Way], config: SbnConfig) -> str | None:
    """Warn where temperatures were fitted to labels that the net has learned by heart."""
    held = ways[0].held
    if held is None or not config.calibration_split.startswith("train"):
        return None
    known, new = (float(error_each(a.log_probs, a.labels).mean()) for a in (held, ways[0].answers))
    if new - known <= _MEMORISED:
        return None
    return (
        f"The calibration set looks memorised: {100 * known:.1f} % error on it and "
        f"{100 * new:.1f} % on the test part. A temperature fitted to it is too low; use "
        "--calibration-split cross or test:0.2."
    )
