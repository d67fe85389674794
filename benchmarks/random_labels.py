"""Random labels: a plain net and one with dropout memorise them, one with SBP noise need not.

The claim is that of Neklyudov et al. 2017 (arXiv:1705.07283), after Zhang et al. 2017.
The labels of a fixed random subset of MNIST are drawn anew, uniformly, once; nets of the
same shape are trained on them from scratch. Training error is measured without noise: dropout
off, SBP units at E[θ] and those with SNR < 1 closed.

Whether the SBP net stays at chance is a race: the noise has to close the units before the weights
find what they could memorise. The evidence bound itself is better (a lower stored `loss`) once the
labels are memorised, since a unit's KL is a few nats whatever its weights hold. So SBP runs twice,
with fast and with slow noise (`--noise-lr`, `--slow-noise-lr`). Every run is stored as soon as it
ends, and a second call with the same options goes on with those that are missing::

    OMP_NUM_THREADS=1 python benchmarks/random_labels.py --data-root DIR

`DIR` is the folder that holds `MNIST/raw`, unpacked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bnnkit.bayes import draw, kl_to_log_uniform, mean, snr

__all__ = ["Net", "read_data", "train"]

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "random_labels.json"
FIGURE = ROOT / "docs" / "figures" / "random-labels.png"
WIDTHS = (784, 300, 100, 10)
METHODS = ("plain", "dropout", "sbp", "sbp-slow")
CHANCE = 90.0


class Net(nn.Module):
    """A fully connected net with nothing, dropout or SBP noise on its layers' inputs.

    Args:
        method: `plain`, `dropout` (hidden units), `sbp` or `sbp-slow` (inputs and hidden units).
        rate: Share of hidden units that dropout removes.
        generator: Source of the SBP noise.
    """

    def __init__(self, method: str, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.method, self.generator = method, generator
        self.noisy = method.startswith("sbp")
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(WIDTHS))
        self.dropout = nn.Dropout(rate)
        units = sum(WIDTHS[:-1]) if self.noisy else 0
        self.mu = nn.Parameter(torch.zeros(units))
        self.log_sigma = nn.Parameter(torch.full((units,), -5.0))

    def gates(self, batch: int) -> list[Tensor]:
        """Return θ of every layer: noise per example, or the mean with closed units at zero."""
        if self.training:
            theta = draw(self.mu, self.log_sigma, (batch, len(self.mu)), self.generator)
        else:
            kept = snr(self.mu, self.log_sigma) >= 1
            theta = mean(self.mu, self.log_sigma) * kept
        return list(theta.split(WIDTHS[:-1], dim=-1))

    def units_left(self) -> list[int]:
        """Return how many inputs and hidden units of each layer have SNR ≥ 1."""
        kept = (snr(self.mu, self.log_sigma) >= 1).split(WIDTHS[:-1])
        return [int(part.sum()) for part in kept]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, `[batch, 10]`, of images `[batch, 784]`."""
        gates = self.gates(len(x)) if self.noisy else []
        for i, layer in enumerate(self.layers):
            if gates:
                x = x * gates[i]
            elif self.method == "dropout" and i:
                x = self.dropout(x)
            x = layer(x)
            if i < len(self.layers) - 1:
                x = x.relu()
        return x


def read_data(root: Path, examples: int) -> tuple[Tensor, Tensor]:
    """Return a fixed random subset of MNIST's training images, `[n, 784]`, and random labels."""
    content = (root / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
    images = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16).view(-1, 784)
    generator = torch.Generator().manual_seed(2017)
    images = images[torch.randperm(len(images), generator=generator)[:examples]]
    labels = torch.randint(10, (examples,), generator=generator)
    return (images / 255 - 0.1307) / 0.3081, labels


@torch.no_grad()
def training_error(net: Net, x: Tensor, y: Tensor) -> float:
    """Return the share of wrong answers on the training set in per cent, without noise."""
    net.eval()
    wrong = (net(x).argmax(1) != y).double().mean()
    net.train()
    return 100 * float(wrong)


def train(method: str, seed: int, x: Tensor, y: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """Train one net; the SBP one by the evidence bound, its KL unscaled."""
    torch.manual_seed(seed)  # the initialisation and nn.Dropout know no other source
    generator = torch.Generator().manual_seed(seed)
    net = Net(method, options["dropout"], generator)
    groups = [
        {"params": list(net.layers.parameters()), "lr": options["lr"]},
        {
            "params": [net.mu, net.log_sigma],
            "lr": options["slow_noise_lr" if method == "sbp-slow" else "noise_lr"],
        },
    ]
    optimiser = torch.optim.Adam(groups, fused=True)
    steps = options["epochs"] * -(-len(x) // options["batch"])
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    curve, started = [], time.perf_counter()
    for epoch in range(1, options["epochs"] + 1):
        total = 0.0
        for part in torch.randperm(len(x), generator=generator).split(options["batch"]):
            loss = nn.functional.cross_entropy(net(x[part]), y[part])
            if net.noisy:
                loss = loss + kl_to_log_uniform(net.mu, net.log_sigma).sum() / len(x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part) / len(x)
            with torch.no_grad():
                net.mu.clamp_(-20, 5)
                net.log_sigma.clamp_(-20, 5)
        error = round(training_error(net, x, y), 4)
        row: dict[str, Any] = {"epoch": epoch, "error": error, "loss": round(total, 5)}
        if net.noisy:
            row["left"] = net.units_left()
        curve.append(row)
        if epoch % 10 == 0:
            print(f"{method} seed {seed}: {row}", flush=True)
    seconds = time.perf_counter() - started
    return {"method": method, "seed": seed, "seconds": round(seconds, 1), "curve": curve}


def processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def draw_figure(result: dict[str, Any], path: Path) -> None:
    """Draw training error by epoch, and the SBP net's units left."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = dict(zip(METHODS, ("plain", "binary dropout", "SBP", "SBP, slow noise"), strict=True))
    colours = dict(zip(METHODS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=True))
    left.axhline(CHANCE, color="0.6", lw=1, ls="--", label="chance")
    for run in result["runs"]:
        first = run["seed"] == result["options"]["seeds"][0]
        left.plot(
            [row["epoch"] for row in run["curve"]],
            [row["error"] for row in run["curve"]],
            color=colours[run["method"]],
            label=names[run["method"]] if first else None,
        )
        if "left" not in run["curve"][0]:
            continue
        for i, (label, style) in enumerate(
            zip(("inputs", "hidden 1", "hidden 2"), ("-", "--", ":"), strict=True)
        ):
            right.plot(
                [0, *(row["epoch"] for row in run["curve"])],
                [WIDTHS[i], *(row["left"][i] for row in run["curve"])],
                color=colours[run["method"]],
                ls=style,
                label=f"{names[run['method']]}: {label}" if first else None,
            )
    left.set(xlabel="epoch", ylabel="training error, %", ylim=(-2, 100))
    left.set_title("Training error on random labels", fontsize=11)
    left.legend(frameon=False)
    right.set(xlabel="epoch", ylabel="units with SNR ≥ 1", ylim=(-15, None))
    right.set_title("Units that SBP leaves", fontsize=11)
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what each method ended with, by seed: error, loss, the units that SBP leaves."""
    final: dict[str, Any] = {}
    for run in runs:
        entry = final.setdefault(run["method"], {"error": {}, "loss": {}})
        for key in ("error", "loss"):
            entry[key][str(run["seed"])] = run["curve"][-1][key]
        if "left" in run["curve"][-1]:
            entry.setdefault("left", {})[str(run["seed"])] = run["curve"][-1]["left"]
    return final


def main() -> None:
    """Run what is missing, write the result and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True, help="holds MNIST/raw")
    parser.add_argument("--examples", type=int, default=3_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--noise-lr", type=float, default=5e-2)
    parser.add_argument("--slow-noise-lr", type=float, default=1e-2)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = vars(parser.parse_args())
    root, out, figure = given.pop("data_root"), given.pop("out"), given.pop("figure")
    options = {**given, "widths": list(WIDTHS), "subset_seed": 2017}
    runs = []
    if out.exists():
        stored = json.loads(out.read_text())
        if {**stored["options"], "seeds": 0} == {**options, "seeds": 0}:
            runs = [run for run in stored["runs"] if run["seed"] in options["seeds"]]
    torch.set_flush_denormal(True)  # closed units leave numbers that are slow to multiply
    x, y = read_data(root, options["examples"])
    done = {(run["method"], run["seed"]) for run in runs}
    out.parent.mkdir(parents=True, exist_ok=True)
    for seed in options["seeds"]:
        for method in METHODS:
            if (method, seed) not in done:
                runs.append(train(method, seed, x, y, options))
            result = {
                "command": " ".join(["python", "benchmarks/random_labels.py", *sys.argv[1:]]),
                "date": datetime.now(UTC).date().isoformat(),
                "hardware": {"cpu": processor(), "threads": torch.get_num_threads()},
                "torch": torch.__version__,
                "options": options,
                "majority_error": 100 * (1 - int(y.bincount().max()) / len(y)),
                "units": {"error": "% of the training set", "loss": "nats per example, KL/N in"},
                "final": summary(runs),
                "runs": runs,
            }
            out.write_text(json.dumps(result, indent=1) + "\n")
    draw_figure(result, figure)
    for method, entry in result["final"].items():
        print(method, entry)


if __name__ == "__main__":
    main()
