"""Sigmoid belief nets with 200 binary latents on MNIST: wake-sleep, AVI-20, straight-through.

python benchmarks/belief_nets.py ROOT [--epochs 8] [--work FOLDER]

ROOT is the folder that holds MNIST. The rows of Hjelm et al. (2016) after shortened training, on
pixels that are drawn once with a fixed seed. All rows see the same images in the same order, and
are judged alike: the bound of the recognition net, the bound after refinement by each method, and
the negative log-likelihood by importance sampling. The state is kept in FOLDER after each epoch,
and a row is written when it is done, so that a broken run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnnkit.io.autoencoder_units import BINARISE_SEED, binarise_split
from bnnkit.io.data import Split, load_data
from bnnkit.methods.vae.belief import BeliefModel, bound, draw, importance_log_likelihood
from bnnkit.methods.vae.refine_binary import METHODS, BinaryRefinement, refine_binary
from bnnkit.methods.vae.train_binary import BinaryTraining
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.run.vae.binary_learner import BinaryLearner
from bnnkit.spec import DataSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.zoo.belief_net import SigmoidBeliefNet

RESULT = Path(__file__).parent / "results" / "belief_nets.json"
LR, BATCH, SAMPLES, SEED = 1e-2, 100, 10, 0
INNER = BinaryRefinement("ais", steps=20, samples=5)
ROWS = {
    "wake-sleep": BinaryTraining("wake-sleep", SAMPLES),
    "straight-through": BinaryTraining("straight-through", SAMPLES),
    "AVI-20": BinaryTraining("avi", SAMPLES, INNER),
}
PUBLISHED = {
    "wake-sleep": {"bound": 120.7, "nll": 116.3},
    "AVI-20": {"bound": 114.08, "nll": 110.13},
}
DRAWS, WEIGHTS = 100, 2000


def pixels(split: Split) -> Tensor:
    """Return zeros and ones `[n, 784]`, drawn with the fixed seed from the grey images."""
    return binarise_split(torch.cat([x for x, _ in split.batches(1000)])).flatten(1)


def train(
    name: str, x: Tensor, epochs: int, work: Path
) -> tuple[BinaryLearner, dict[str, object]]:
    """Train a row, or go on with it; return the net and its curve of bounds on training data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = SigmoidBeliefNet()
    config = TrainConfig(epochs=epochs, batch_size=BATCH, lr=LR, seed=SEED)
    learner = BinaryLearner(net, ROWS[name], config, torch.device("cpu"))
    file = work / f"{name}-{epochs}.pt"
    curve: list[dict[str, float]] = []
    spent = 0.0
    if file.exists():
        kept = torch.load(file, weights_only=True)
        learner.restore(*kept["state"])
        curve, spent = kept["curve"], kept["cpu_seconds"]
    for epoch in range(len(curve), epochs):
        begun = time.process_time()
        for group in learner.optimiser.param_groups:
            group["lr"] = LR * (1 - epoch / epochs)
        draws = torch.Generator().manual_seed(1000 * SEED + epoch)
        order = torch.split(torch.randperm(len(x), generator=draws), BATCH)
        figures = [learner.step(x[rows], draws) for rows in order]
        curve.append({k: float(np.mean([f[k] for f in figures])) for k in figures[0]})
        spent += time.process_time() - begun
        print(name, epoch + 1, curve[-1], f"{spent:.0f} CPU s", flush=True)
        kept = {"state": learner.state(), "curve": curve, "cpu_seconds": spent}
        torch.save(kept, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return learner, {"cpu_seconds_of_training": round(spent, 1), "curve": curve}


def mean(values: Tensor) -> dict[str, float]:
    """Return the mean over images and its standard error."""
    return {"mean": float(values.mean()), "se": float(values.std() / len(values) ** 0.5)}


@torch.no_grad()
def judged(
    model: BeliefModel, x: Tensor, logits: Tensor, draws: torch.Generator
) -> dict[str, dict[str, float]]:
    """Return the bound on fresh draws, and what importance sampling tells."""
    parts = list(zip(torch.split(x, 200), torch.split(logits, 200), strict=True))
    bounds = [bound(model, a, b, draw(b, DRAWS, draws)) for a, b in parts]
    found = [importance_log_likelihood(model, a, b, WEIGHTS, draws) for a, b in parts]
    return {
        "bound": mean(-torch.cat(bounds)),
        "nll": mean(-torch.cat([f.log_likelihood for f in found])),
        "ess": mean(torch.cat([f.ess for f in found])),
    }


def judge(model: BeliefModel, x: Tensor) -> dict[str, object]:
    """Return all figures of a trained net on test images, in nats an image, negated."""
    draws = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        posteriors: dict[str, tuple[Tensor, dict[str, float]]]
        posteriors = {"amortised": (model.encode(x), {})}
    for method in METHODS:
        begun = time.process_time()
        refined = refine_binary(model, x, BinaryRefinement(method), draws)
        posteriors[f"refined by {method}, 20 steps"] = (refined.posterior.logits, {
            "cpu_ms_an_image_with_judging": 1e3 * (time.process_time() - begun) / len(x),
            "improved": int(refined.improved.sum()),
            "diverged": int(refined.diverged.sum()),
            "least_gain": float((refined.elbo_after - refined.elbo_before).min()),
        })  # fmt: skip
    return {
        name: judged(model, x, logits, draws) | more for name, (logits, more) in posteriors.items()
    }


def main() -> None:
    """Train, judge and write what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("belief-nets"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    data = load_data(DataSpec("mnist", args.root, mean=(0.0,), std=(1.0,), augment="none"))
    x, held_out = pixels(data.train), pixels(data.test)[: args.images]
    setting = {
        "latents": 200, "epochs": args.epochs, "batch": BATCH, "adam_lr": LR,
        "lr_schedule": "linear to 0, by epoch", "seed": SEED,
        "samples": SAMPLES, "refinement_in_avi": {**asdict(INNER), "rate": INNER.step_size},
        "test_images": args.images, "draws_of_bounds": DRAWS, "importance_samples": WEIGHTS,
        "pixels": f"drawn once, numpy PCG64 seed {BINARISE_SEED}",
        "units": "nats an image, negated; se is over images",
    }  # fmt: skip
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if result.get("setting") != setting:
        result = {"rows": {}}
    for name in ROWS:
        if name in result["rows"]:
            continue
        learner, training = train(name, x, args.epochs, args.work)
        row = training | {"test": judge(learner.model, held_out)}
        result = {
            "command": f"python benchmarks/belief_nets.py ROOT --epochs {args.epochs}",
            "date": datetime.now(UTC).date().isoformat(),
            "cpu": cpu_model(),
            "versions": versions(),
            "setting": setting,
            "published": PUBLISHED,
            "rows": result["rows"] | {name: row},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(row["test"], indent=1), flush=True)


if __name__ == "__main__":
    main()
