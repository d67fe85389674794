"""Torch-Pruning on the same model, the same data, the same recovery: the peer of `prune`.

    python benchmarks/peer_torch_pruning.py MODEL --data DATA --macs 0.5 --importance taylor

prunes the inner channels of a ResNet-20 (`--all`: the residual streams too), globally, to a share
of the multiply-accumulates; then trains the slim net by bnnkit's own loop and prints one JSON row.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.io.runtimes import open_predictor
from bnnkit.methods.distillation import Teacher
from bnnkit.run.evaluate import measure, predictions
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import Precision
from bnnkit.run.progress import SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.setup import Bench, set_up
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.zoo.resnet import BasicBlock

_GRADIENT_BATCHES = 50


def main() -> None:
    """Prune, train, measure, print."""
    args = _arguments()
    torch.set_num_threads(1)
    spec = ModelSpec(file=args.model, arch="bnnkit:resnet20-cifar")
    mean, std = (tuple(map(float, v.split(","))) for v in (args.mean, args.std))
    data = DataSpec(name=args.data, mean=mean, std=std, augment=args.augment)
    bench = set_up(spec, data, seed=args.seed)
    original = bench.module.eval()
    gradients = _gradients(original, bench, args.seed) if args.importance == "taylor" else None
    shape = bench.data.input_shape
    limit = args.macs * count_macs(original, shape)
    low, high = 0.0, 0.99
    for _ in range(12):
        middle = (low + high) / 2
        slim = _pruned(original, args, bench, middle, gradients)
        low, high = (middle, high) if count_macs(slim, shape) > limit else (low, middle)
    slim = _pruned(original, args, bench, high, gradients)
    before = _error(slim, bench)
    config = TrainConfig(
        epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed, compile=True
    )
    teacher = Teacher(copy.deepcopy(original), args.distill, 4.0) if args.distill else None
    began = time.perf_counter()
    Trainer(
        slim, bench.data.train, config, Precision("fp32", channels_last=False),
        torch.device("cpu"), teacher=teacher, progress=SilentProgress(),
    ).run(0, args.epochs)  # fmt: skip
    seconds = time.perf_counter() - began
    if args.save:
        torch.save(slim, args.save)
    row = {
        "method": f"torch-pruning {args.importance}",
        "all_channels": args.all,
        "target_macs": args.macs,
        "distill": args.distill,
        "augment": args.augment,
        "seed": args.seed,
        "error": _error(slim, bench),
        "error_original": _error(original, bench),
        "error_before_training": before,
        "macs": count_macs(slim, shape),
        "macs_original": count_macs(original, shape),
        "parameters": count_parameters(slim),
        "widths": [m.out_channels for m in slim.modules() if isinstance(m, nn.Conv2d)],
        "seconds_training": seconds,
        "provenance": collect_provenance(
            ["python", *sys.argv], seed=args.seed, device="cpu", started=datetime.now(UTC)
        ),
    }
    print(json.dumps(row, default=str))


def _pruned(
    original: nn.Module,
    args: argparse.Namespace,
    bench: Bench,
    ratio: float,
    gradients: dict[str, torch.Tensor] | None,
) -> nn.Module:
    """Return a copy pruned globally by this share of the channels in reach."""
    model = copy.deepcopy(original)
    for name, parameter in model.named_parameters():
        parameter.grad = None if gradients is None else gradients[name].clone()
    ignored: list[nn.Module] = [model.linear]
    if not args.all:
        inner = [m.conv1 for m in model.modules() if isinstance(m, BasicBlock)]
        ignored += [m for m in model.modules() if isinstance(m, nn.Conv2d) and m not in inner]
    importance = (
        tp.importance.GroupTaylorImportance()
        if args.importance == "taylor"
        else tp.importance.GroupMagnitudeImportance(p=2)
    )
    pruner = tp.pruner.BasePruner(
        model, bench.example(), importance=importance, global_pruning=True,
        pruning_ratio=ratio, max_pruning_ratio=0.95, ignored_layers=ignored,
    )  # fmt: skip
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def _gradients(model: nn.Module, bench: Bench, seed: int) -> dict[str, torch.Tensor]:
    """Return the gradients of the loss, summed over some training batches."""
    model = copy.deepcopy(model).eval()
    source = torch.Generator().manual_seed(seed)
    batches = bench.data.train.batches(128, shuffle=True, generator=source)
    for (x, y), _ in zip(batches, range(_GRADIENT_BATCHES), strict=False):
        F.cross_entropy(model(x), y).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _error(model: nn.Module, bench: Bench) -> float:
    """Return the test error, in percent."""
    found = predictions(open_predictor(copy.deepcopy(model).eval()), bench.data.test)
    return measure(found)["error"].value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--mean", default=".485,.456,.406")
    parser.add_argument("--std", default=".229,.224,.225")
    parser.add_argument("--macs", type=float, required=True)
    parser.add_argument("--importance", choices=["magnitude", "taylor"], default="taylor")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--distill", type=float, default=0.0)
    parser.add_argument("--augment", choices=["auto", "none"], default="auto")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
