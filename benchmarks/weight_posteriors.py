"""Posteriors on weights: what each leaves of a net (Rudnev and Kropotov, Tables 1 and 2; MNIST).

    python benchmarks/weight_posteriors.py vgg DATA --epochs 15
    python benchmarks/weight_posteriors.py groups DATA --epochs 15
    python benchmarks/weight_posteriors.py mlp mnist --data-root ROOT --epochs 15

A plain net is trained first. Then each posterior is trained from a copy of it, for as many epochs,
with the weight of the KL term grown exponentially over the first half. `vgg` compares diagonal,
matrix-normal and matrix-normal + diagonal posteriors under the group prior, and a diagonal one
with a precision for each weight; `groups` what a prior variance a layer, rows alone or columns
alone leave; `mlp` the same posteriors on a fully connected net with ELU. Rows go to
`results/weight_posteriors.json`, a part at a time.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnnkit.graph.analyse import analyse
from bnnkit.io.data import Dataset, load_data
from bnnkit.io.runtimes import open_predictor
from bnnkit.methods import METHODS
from bnnkit.methods.base import Setting
from bnnkit.methods.weight_posterior import WeightMethod
from bnnkit.run.evaluate import measure, predictions
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import Precision
from bnnkit.run.provenance import cpu_model
from bnnkit.spec import DataSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.posterior_config import PosteriorConfig
from bnnkit.spec.prune import PruneConfig

OUT = Path(__file__).parent / "results" / "weight_posteriors.json"
FREE = [("ard", "both"), ("group-ard", "both"), ("mn", "both"), ("mn-diag", "both")]
GROUPS = [("mn", "layer"), ("mn", "rows"), ("mn", "columns"), ("mn", "both")]
_CPU = torch.device("cpu")


def vgg_like(classes: int, widths: tuple[int, ...] = (10, 20, 40, 20)) -> nn.Module:
    """Three convolutions and two linear layers; the first and the last are those of the data."""
    layers: list[nn.Module] = []
    channels = 3
    for width in widths[:3]:
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                   nn.ReLU(), nn.MaxPool2d(2)]  # fmt: skip
        channels = width
    layers += [nn.Flatten(), nn.Linear(16 * channels, widths[3]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[3], classes))


def mlp(classes: int, width: int = 300) -> nn.Module:
    """Three hidden layers with ELU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, width, width):
        layers += [nn.Linear(inputs, width), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def main() -> None:
    """Train, count, write."""
    args = _arguments()
    torch.set_num_threads(1)
    data = load_data(DataSpec(args.data, root=args.data_root))
    torch.manual_seed(args.seed)
    wide = (20, 40, 80, 40)
    base = {
        "vgg": lambda: vgg_like(10),
        "groups": lambda: vgg_like(10, wide),
        "mlp": lambda: mlp(10),
    }
    model = base[args.part]()
    config = TrainConfig(epochs=args.epochs, lr=args.lr, seed=args.seed)
    _trainer(model, data, config).run(0, args.epochs)
    rows: list[dict[str, Any]] = [
        {"method": "none", "error": _error(model, data), "curve": [],
         "weights": {n: [p.numel()] * 2 for n, p in model.named_parameters() if p.dim() > 1}}
    ]  # fmt: skip
    for method, groups in GROUPS if args.part == "groups" else FREE:
        rows.append(_fitted(copy.deepcopy(model), data, config, method, groups))
        _print(rows[-1])
        _write(args, rows)


def _fitted(
    model: nn.Module, data: Dataset, config: TrainConfig, method: str, groups: str
) -> dict[str, Any]:
    """Train one posterior, and return what it leaves."""
    posterior = PosteriorConfig(groups=groups, kl_anneal=0.5, shared_over_kernel=False)
    source = torch.Generator().manual_seed(config.seed)
    structure = analyse(model, torch.zeros(2, *data.input_shape))
    asked = PruneConfig(method=method, posterior=posterior)
    fitted = METHODS[method](Setting(structure, model, asked, len(data.train), source, _CPU))
    assert isinstance(fitted, WeightMethod)
    curve: list[dict[str, float]] = []

    def note(row: dict[str, float]) -> None:
        left = sum(kept for kept, _ in fitted.weights_left().values())
        curve.append(
            {**row, "weights_left": left, "test_error": _error(_masked(model, fitted), data)}
        )

    trainer = _trainer(model, data, config)
    trainer.method, trainer.generator, trainer.on_epoch = fitted, source, note
    with fitted.attach(model):
        trainer.run(0, config.epochs)
    return {
        "method": method, "groups": groups, "error": _error(_masked(model, fitted), data),
        "error_unmasked": _error(model, data), "units": int(fitted.decide().keep.sum()),
        "weights": {k: list(v) for k, v in fitted.weights_left().items()}, "curve": curve,
    }  # fmt: skip


def _masked(model: nn.Module, fitted: WeightMethod) -> nn.Module:
    """Return a copy of the means with the weights that are noise set to zero."""
    plain = copy.deepcopy(model)
    for name, mask in fitted.masks().items():
        weight = plain.get_submodule(name).weight
        weight.data.mul_(mask)
    return plain


def _trainer(model: nn.Module, data: Dataset, config: TrainConfig) -> Trainer:
    return Trainer(model, data.train, config, Precision("fp32", channels_last=False), _CPU)


def _error(model: nn.Module, data: Dataset) -> float:
    """Return the test error, in percent, of the means."""
    plain = copy.deepcopy(model).eval()
    for module in plain.modules():
        module._forward_hooks.clear()
    return measure(predictions(open_predictor(plain), data.test))["error"].value


def _print(row: dict[str, Any]) -> None:
    left = {name: kept for name, (kept, _) in row["weights"].items()}
    print(
        row["method"], row["groups"], f"{row['error']:.2f} %", sum(left.values()), left, flush=True
    )


def _write(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    body = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    body[args.part] = {
        "command": " ".join(["python", "benchmarks/weight_posteriors.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": cpu_model(),
        "rows": rows,
    }
    OUT.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["vgg", "groups", "mlp"])
    parser.add_argument("data")
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
