"""AEVB on Frey Faces: the bound against epochs, both estimators, and a posterior over weights.

python benchmarks/vae_frey.py DATA_ROOT [--epochs 400]

The net of Kingma and Welling (2014): 200 tanh units on either side and a Gaussian decoder whose
means lie in (0, 1), at 2, 10 and 20 latents. Bounds are of grey values in [0, 1], in nats an
image. The variance of estimator A (sampled divergence) against B (closed form) is that of the
bound of one draw, and of its gradient, over repeated draws for one batch. Full variational Bayes
gives the decoder's weights a posterior too; its bound per image takes KL(weights) / N off.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from bnnkit.methods.vae.fit_losses import fit_losses
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.run.vae.fit_setup import FitJob, set_up_fit
from bnnkit.run.vae_fit import vae_fit
from bnnkit.spec import DataSpec, ModelSpec, Quantity
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_fit import VaeFitConfig

RESULT = Path(__file__).parent / "results" / "vae_frey.json"
LATENTS = (2, 10, 20)
REPEATS = 100
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000)


def model(latent: int) -> ModelSpec:
    """Return the net of the paper."""
    return ModelSpec(arch="bnnkit:vae-gaussian", arch_args={"latent": latent})


def config(args: argparse.Namespace) -> VaeFitConfig:
    """Return the settings of a run; the data held out are looked at, and stop nothing."""
    return VaeFitConfig(
        epochs=args.epochs, lr=args.lr, seed=args.seed, validation=0.1, nll_samples=100,
        nll_limit=393, threads=1, device="cpu",
    )  # fmt: skip


def figure(quantity: Quantity) -> dict[str, float | int | None]:
    """Return a figure with its interval."""
    return {k: getattr(quantity, k) for k in ("value", "low", "high", "n")}


def fitted(args: argparse.Namespace, latent: int, folder: Path, **options: object) -> dict:
    """Train once, and return the bound by epochs."""
    begun = time.process_time()
    settings = replace(config(args), **options)  # type: ignore[arg-type]
    report = vae_fit(model(latent), DataSpec("freyfaces", root=args.root), settings, out=folder)
    s = report.sections
    row = {
        "latent": latent,
        **options,
        "bound_by_epoch": [
            {"epoch": int(r["epoch"]), "train": round(r["bound"], 2),
             "held_out": round(r["validation"], 2)}
            for r in s["curve"] if r["epoch"] in (*SHOWN, args.epochs)
        ],
        "kept_epoch": s["training"]["kept"],
        "train_elbo": figure(s["bounds"]["train"]["elbo"]),
        "test_elbo": figure(s["bounds"]["test"]["elbo"]),
        "test_kl": figure(s["bounds"]["test"]["kl"]),
        "test_nll_100": figure(s["likelihood"]["nll"]),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }  # fmt: skip
    if "weights" in s:
        kl = s["weights"]["kl_per_datum"]
        row["weights_kl_per_image"] = kl
        row["train_elbo_less_weights"] = s["bounds"]["train"]["elbo"].value - kl
    print(json.dumps(row), flush=True)
    return row


def gradient(job: FitJob, x: Tensor, settings: VaeFitConfig, seed: int) -> tuple[float, Tensor]:
    """Return the loss of one draw, and its gradient as one vector."""
    job.net.module.zero_grad()
    losses, _ = fit_losses(job.net, x, settings, 1.0, torch.Generator().manual_seed(seed))
    losses[0].value.backward()
    parts = [p.grad.flatten() for p in job.net.module.parameters() if p.grad is not None]
    return float(losses[0].value.detach()), torch.cat(parts)


def estimators(args: argparse.Namespace, run: Path | None) -> dict[str, object]:
    """Return the variances of both estimators for one batch of 100, fresh or trained."""
    spec = model(10) if run is None else ModelSpec(file=str(run))
    job = set_up_fit(VaeSpec(spec), DataSpec("freyfaces", root=args.root), config(args), "cpu")
    x, out = job.data.train[:100], {}
    for name in ("A", "B"):
        found = [
            gradient(job, x, replace(config(args), estimator=name), i) for i in range(REPEATS)
        ]
        loss = torch.tensor([value for value, _ in found], dtype=torch.float64)
        grads = torch.stack([g for _, g in found]).double()
        out[name] = {
            "bound_mean": float(-loss.mean()),
            "bound_variance": float(loss.var()),
            "gradient_variance": float(grads.var(0).sum()),
            "gradient_norm_of_mean": float(grads.mean(0).norm()),
        }
    ratio = {k: out["A"][k] / out["B"][k] for k in ("bound_variance", "gradient_variance")}
    return {"weights": "fresh" if run is None else "trained", **out, "a_over_b": ratio}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="Folder with freyfaces.npz.")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [fitted(args, latent, folder / f"z{latent}") for latent in LATENTS]
        variances = [estimators(args, run) for run in (None, folder / "z10")]
        full = fitted(args, 10, folder / "full-vb", full_vb=True)
    result = {
        "command": f"python benchmarks/vae_frey.py DATA_ROOT --epochs {args.epochs} --lr {args.lr}"
        f" --seed {args.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions(),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "rows": rows,
        "estimators": variances,
        "full_variational_bayes": full,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
