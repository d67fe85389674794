"""What a run refuses before any work, since it would be refused after it."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import ArchitectureError, BnnkitError, StructureError, UsageError, did_you_mean
from bnnkit.graph.outputs import main_output
from bnnkit.io.rundir import check_replaceable, is_run_directory
from bnnkit.methods import METHODS, RANKINGS
from bnnkit.spec.gates import GateOptions, parse_setting
from bnnkit.spec.model import ModelSpec
from bnnkit.spec.prune import PruneConfig

__all__ = [
    "check_method",
    "check_place",
    "check_prune",
    "check_rebuildable",
    "check_rows",
    "copied",
]

_ROWS = 1e-3
"""How far an answer may move with its batch: rounding is far below, batch statistics far above."""


def check_prune(config: PruneConfig, gates: GateOptions | None = None) -> None:
    """Refuse settings that lead nowhere.

    Args:
        config: What is asked for.
        gates: The limits that the report will be judged by.

    Raises:
        UsageError: A setting is not known, contradicts another, or nothing would be learned; or a
            gate looks at a setting that will not be timed.
    """
    config = config.aimed(gates)
    train = config.train
    check_method(config)
    _check_scales(config)
    if config.removal_seed is not None and train.epochs:
        raise UsageError(
            "Pruning", "--removal-seed with epochs", "a random removal is not trained for",
            "Add --epochs 0.",
        )  # fmt: skip
    noisy = train.epochs - config.calm_epochs(train.epochs)
    if config.removal_seed is None and config.method not in RANKINGS and not noisy:
        raise UsageError(
            "Pruning",
            f"--epochs {train.epochs} with --finetune {config.recovery.finetune or 0:g}",
            "no epoch is left to learn from which channels are needed",
            "Use more epochs, or --method laplace with a target, such as --target-macs 0.5, which "
            "trains nothing.",
        )
    if gates is not None and gates.speedup_at is not None:
        _check_setting(config, parse_setting(gates.speedup_at))
    _check_val(config)


def check_method(config: PruneConfig) -> None:
    """Refuse a method that there is not."""
    known = [*METHODS, *RANKINGS]
    if config.method not in known:
        raise UsageError(
            "Pruning", f"--method {config.method!r}", "it is not known",
            did_you_mean(config.method, known),
        )  # fmt: skip


def _check_val(config: PruneConfig) -> None:
    """Refuse to name what decides where nothing is decided by it."""
    if config.val == PruneConfig.val or config.target.is_budget():
        return
    why, hint = "there is none", "Add --max-error-rise 0.5, or leave --val out."
    if config.target.error_rise is not None:
        why = "beside a cost that is aimed at the budget only judges, on the test part"
        hint = "Leave --val out, or the target."
    raise UsageError(
        "Reading --val", repr(config.val), f"it decides about an error budget, and {why}", hint
    )


def _check_scales(config: PruneConfig) -> None:
    """Refuse weights of single layers where the method has one weight for all."""
    if config.sbp.kl_scales and config.method != "sbp":
        raise UsageError(
            "Scaling the KL term",
            f"a pattern with --method {config.method}",
            "it weighs all layers alike",
            "Give one number, or use --method sbp.",
        )


def _check_setting(config: PruneConfig, at: dict[str, str]) -> None:
    """Refuse a gate on a latency that the run will not measure."""
    measured: dict[str, Collection[str]] = {
        "batch": [str(n) for n in config.batches],
        "threads": [str(n) for n in config.threads],
    }
    if "onnx" not in config.formats:
        measured["runtime"] = ["torch", "torch+graph"]
    elif at.get("device", "cpu").lower() == "cpu":
        measured["runtime"] = ["torch", "torch+graph", "onnxruntime"]
    if at.get("device", "cpu").lower() != "cpu":
        del measured["threads"]  # there it is the host's own count
    for key, values in measured.items():
        if key in at and at[key].lower() not in values:
            raise UsageError(
                "Judging --min-speedup",
                f"{key}={at[key]}",
                f"this run measures {key} {', '.join(values)}",
                "Change --speedup-at, --bench-batch or --bench-threads.",
            )


def check_place(out: Path, *, force: bool, reads: Iterable[str | Path | None] = ()) -> None:
    """Refuse a run directory that could not be written when the run ends.

    Args:
        out: The run directory.
        force: Whether an earlier run there may be replaced.
        reads: Files and folders that the run reads, which it would replace.

    Raises:
        UsageError: It is a finished run, somebody's own folder, a file, or not writable, or it
            holds what the run reads.
    """
    for path in (Path(named).resolve() for named in reads if named is not None):
        if out.resolve() in (path, *path.parents) and is_run_directory(out):
            raise UsageError(
                "Writing a run", repr(str(out)), "the run reads it, and would replace it",
                "Name another directory with --out.",
            )  # fmt: skip
    if is_run_directory(out) and not force:
        raise UsageError(
            "Writing a run", repr(str(out)), "it is a finished run",
            "Name another directory with --out, or replace it with --force.",
        )  # fmt: skip
    check_replaceable(out)
    above = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    needed = (above, above.parent) if above == out.absolute() else (above,)
    for folder in needed:  # the finished run is written beside, and swapped in
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise UsageError(
                "Writing a run", repr(str(out)), f"{str(folder)!r} is no folder to write into",
                "Name another directory with --out.",
            )  # fmt: skip


def check_rebuildable(spec: ModelSpec, module: nn.Module) -> None:
    """Refuse a model whose run directory could not be loaded again.

    Raises:
        ArchitectureError: Nothing names the code that builds it.
    """
    if spec.arch is None:
        kind = type(module)
        raise ArchitectureError(
            f"Writing a run of {spec.file!r}",
            f"a pickled {kind.__qualname__!r} without an architecture",
            "a run directory holds no pickle, so it must name what builds the module",
            f"Name it with --arch, such as --arch {kind.__module__}:{kind.__qualname__}.",
        )


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model.

    Raises:
        StructureError: It holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # handles of libraries, tensors that a hook computed
        hint = "Let copy.deepcopy(model) work."
        if "weight_norm" in str(error):
            hint = "Call torch.nn.utils.remove_weight_norm on its layers when it is built."
        raise StructureError(
            "Copying the model",
            f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}",
            "the original is kept beside the slim model", hint,
        ) from error  # fmt: skip


def check_rows(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model whose answer to an input depends on its batch: no form could be compared.

    Args:
        model: The model in eval mode.
        inputs: `[n, ...]` real inputs.

    Raises:
        StructureError: It answers an input otherwise when that comes alone, or not at all.
    """
    what = "Running the model on one input and on a batch"
    with torch.inference_mode():
        together = main_output(model(inputs)).double()
        try:
            alone = main_output(model(inputs[:1])).double()
        except BnnkitError:
            raise
        except Exception as error:  # the owner's code, which may need two
            raise StructureError(
                what, f"{type(error).__name__}: {str(error).splitlines()[0]}"[:300],
                "it does not run at batch size 1", "Let its forward keep the batch axis.",
            ) from error  # fmt: skip
    if alone.shape != together[:1].shape:
        raise StructureError(
            what, f"outputs of {list(alone.shape)} and {list(together.shape)}",
            "there must be one row an input", "Let its forward keep the batch axis.",
        )  # fmt: skip
    gap = float((alone - together[:1]).abs().max() / together.abs().max().clamp(min=1e-30))
    if gap > _ROWS:
        raise StructureError(
            what, f"answers that differ by {gap:.2g} (relative)",
            "an answer that depends on the other inputs cannot be checked or reproduced",
            "Give batch norm its running statistics (track_running_stats=True), and let the "
            "forward use no statistic of the batch.",
        )  # fmt: skip
