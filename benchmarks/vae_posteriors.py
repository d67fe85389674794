"""Posteriors of a VAE on MNIST at equal epochs: DIAG, MN and full; VAE, HVI, HVI with AVO and IAF.

python benchmarks/vae_posteriors.py gaussian|chains DATA_ROOT [--epochs 8] [--limit 20000]

`gaussian` trains the same net with a diagonal, a matrix-normal and a full Gaussian at 40 latents
(20 x 2) and at 9 (3 x 3), and times their steps against each other, interleaved, in one process.
`chains` trains it with a diagonal Gaussian, a chain of transitions by its ELBO and by the annealed
objective beside it, and an inverse autoregressive flow. Pixels are binarised once (seed 20151119),
bounds are those of the test part, and each part is merged into the result file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from bnnkit.run.provenance import cpu_model, versions
from bnnkit.run.vae.fit_learner import ContinuousLearner
from bnnkit.run.vae.fit_setup import set_up_fit
from bnnkit.run.vae_fit import vae_fit
from bnnkit.spec import DataSpec, ModelSpec, Quantity
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_fit import VaeFitConfig

RESULT = Path(__file__).parent / "results" / "vae_posteriors.json"
SHAPES = {40: "20x2", 9: "3x3"}
CHAINS = (("diag", "elbo"), ("hvi:5", "elbo"), ("hvi:5", "avo+elbo"), ("iaf:2", "elbo"))
CHAIN_LATENTS = 40
STEPS = 150
WARM = 10


def model(latent: int) -> ModelSpec:
    """Return the net: 400 rectified linear units on either side."""
    return ModelSpec(arch="bnnkit:vae-mnist", arch_args={"latent": latent})


def config(args: argparse.Namespace, posterior: str, objective: str = "elbo") -> VaeFitConfig:
    """Return the settings of a run."""
    return VaeFitConfig(
        posterior=posterior, objective=objective, epochs=args.epochs, lr=args.lr,
        seed=args.seed, validation=0.0, nll_samples=100, nll_limit=500, threads=1, device="cpu",
    )  # fmt: skip


def figure(quantity: Quantity) -> dict[str, float | int | None]:
    """Return a figure with its interval."""
    return {k: getattr(quantity, k) for k in ("value", "low", "high", "n")}


def fitted(
    args: argparse.Namespace, latent: int, posterior: str, objective: str
) -> dict[str, object]:
    """Train once, and return the bound, the likelihood and what it cost."""
    begun = time.process_time()
    data = DataSpec("mnist", root=args.root, limit=args.limit)
    with tempfile.TemporaryDirectory() as folder:
        report = vae_fit(
            model(latent), data, config(args, posterior, objective), out=Path(folder) / "run"
        )
    found, likelihood = report.sections["bounds"]["test"], report.sections["likelihood"]
    row = {
        "latent": latent,
        "posterior": posterior,
        "objective": objective,
        "test_elbo": figure(found["elbo"]),
        "test_kl": figure(found["kl"]),
        "test_nll_100": figure(likelihood["nll"]),
        "ess_of_100": likelihood["ess"],
        "train_bound_by_epoch": [round(r["bound"], 3) for r in report.sections["curve"]],
        "cpu_seconds": round(time.process_time() - begun, 1),
    }
    print(json.dumps(row), flush=True)
    return row


def step_ratios(args: argparse.Namespace, latent: int) -> dict[str, float]:
    """Return the median CPU time of a training step against that of a diagonal posterior."""
    data = DataSpec("mnist", root=args.root, limit=500)
    learners = {}
    for name in ("diag", f"mn:{SHAPES[latent]}", "full"):
        job = set_up_fit(VaeSpec(model(latent)), data, config(args, name), "cpu")
        learners[name] = ContinuousLearner(job.net, config(args, name), job.data.train[:2])
    x, source = job.data.train[:100], torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in learners}
    for _ in range(STEPS + WARM):
        for name, learner in learners.items():
            begun = time.process_time()
            learner.step(x, source)
            times[name].append(time.process_time() - begun)
    medians = {name: statistics.median(t[WARM:]) for name, t in times.items()}
    base = medians["diag"]
    return {name: round(t / base, 3) for name, t in medians.items()} | {
        "diag_ms": round(1000 * base, 2)
    }


def merge(part: str, body: dict[str, object]) -> None:
    """Put a part into the result file, and leave the others."""
    old = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    RESULT.write_text(json.dumps({**old, part: body}, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("gaussian", "chains"))
    parser.add_argument("root", help="Folder with MNIST/raw.")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begun = time.process_time()
    body: dict[str, object] = {
        "command": f"python benchmarks/vae_posteriors.py {args.part} DATA_ROOT --epochs "
        f"{args.epochs} --limit {args.limit} --lr {args.lr} --seed {args.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions(),
        "train_images": args.limit,
        "test_images": min(args.limit, 10_000),
        "batch_size": VaeFitConfig.batch_size,
    }
    if args.part == "gaussian":
        body["step_cpu_against_diag"] = {d: step_ratios(args, d) for d in SHAPES}
        body["rows"] = [
            fitted(args, latent, name, "elbo")
            for latent, shape in SHAPES.items()
            for name in ("diag", f"mn:{shape}", "full")
        ]
    else:
        body["rows"] = [fitted(args, CHAIN_LATENTS, *pair) for pair in CHAINS]
    body["cpu_seconds"] = round(time.process_time() - begun, 1)
    merge(args.part, body)


if __name__ == "__main__":
    main()
