"""Refinement of a pretrained VAE's posteriors: gain, cost, and what importance sampling gains.

python benchmarks/vae_refine.py MODEL DATA_ROOT [--limit 1000]

MODEL is a VAE of PyTorch's layout (fc1, fc21, fc22, fc3, fc4) trained on MNIST:
`bnnkit train --arch bnnkit:vae-mnist --data mnist --epochs 20`. One thread; CPU seconds of this
process. Every figure is the mean over the first test images, binarised as the package does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.importance import elbo, importance
from bnnkit.methods.vae.refine import Refined, refine
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.run.vae.measure import amortised
from bnnkit.run.vae.setup import VaeBench, set_up_vae
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_refine import RefineConfig

RESULT = Path(__file__).parent / "results" / "vae_refine.json"
DRAWS = 200
OPTIMUM = RefineConfig(steps=100, samples=8, judge_samples=32)
RATES = (1e-3, 1e-2, 1e-1, 1.0)
SETTINGS = {
    "diag, natural (default)": RefineConfig(),
    "diag, natural, 10 steps": RefineConfig(steps=10),
    "diag, adam": RefineConfig(optimiser="adam"),
    "diag, rmsprop": RefineConfig(optimiser="rmsprop"),
    "diag, sgd": RefineConfig(optimiser="sgd"),
    "mn:5x4, natural": RefineConfig(family="mn:5x4"),
    "full, natural": RefineConfig(family="full"),
    "flow, adam": RefineConfig(family="flow", optimiser="adam"),
}


def source(seed: int) -> torch.Generator:
    """Return a seeded source of draws."""
    return torch.Generator().manual_seed(seed)


def bound(bench: VaeBench, x: Tensor, q: Posterior) -> Tensor:
    """Return the bound of each image on draws that nothing was chosen by."""
    return elbo(bench.model, x, q, DRAWS, generator=source(99)).bound


def run(bench: VaeBench, x: Tensor, config: RefineConfig) -> Refined:
    """Refine."""
    return refine(bench.model, x, config, generator=source(1))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the CPU seconds that it took."""
    begun = time.process_time()
    found = work()
    return found, time.process_time() - begun


def likelihood(bench: VaeBench, x: Tensor, q: Posterior, samples: int) -> dict[str, float]:
    """Return minus log p(x) by importance sampling, and its cost."""
    found, seconds = timed(lambda: importance(bench.model, x, q, samples, generator=source(5)))
    return {
        "samples": samples,
        "nll": -float(found.mean[-1]),
        "error_of_draws": float(found.mean_se[-1]),
        "ess_median": float(found.ess.median()),
        "ess_mean": float(found.ess.mean()),
        "cpu_seconds": seconds,
    }


def main() -> None:
    """Refine in every setting, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("root")
    parser.add_argument("--limit", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = DataSpec(name="mnist", root=args.root)
    bench = set_up_vae(VaeSpec(ModelSpec(file=args.model)), data)
    x = bench.test(args.limit)
    q0 = amortised(bench, x, 100)
    first = bound(bench, x, q0)
    best = bound(bench, x, run(bench, x, OPTIMUM).posterior)
    result: dict[str, Any] = {
        "command": f"python benchmarks/vae_refine.py MODEL DATA_ROOT --limit {args.limit}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "threads": 1,
        "versions": versions(),
        "n": len(x),
        "amortised": float(first.mean()),
        "diagonal_optimum": float(torch.maximum(best, first).mean()),
        "settings": [],
    }
    gap = result["diagonal_optimum"] - result["amortised"]
    kept: dict[str, Posterior] = {}
    for name, config in SETTINGS.items():
        found = run(bench, x, config)
        after = bound(bench, x, found.posterior)
        kept[name] = found.posterior
        row = {
            "setting": name,
            "steps": config.steps,
            "draws": config.draws,
            "bound": float(after.mean()),
            "gain": float((after - first).mean()),
            "share_of_diagonal_gap": float((after - first).mean()) / gap,
            "worst": float((after - first).min()),
            "worse_by_more_than_0.1": int((after - first < -0.1).sum()),
            "cpu_ms": 1000 * found.cpu_seconds / len(x),
            "diverged": int(found.diverged.sum()),
        }
        result["settings"].append(row)
        print(row, flush=True)
    result["importance"] = [
        {"posterior": "amortised", **likelihood(bench, x, q0, 100)},
        {"posterior": "amortised", **likelihood(bench, x, q0, 5000)},
        *(
            {"posterior": name, **likelihood(bench, x, kept[name], count)}
            for name in ("diag, natural (default)", "diag, natural, 10 steps", "full, natural")
            for count in (100, 500)
        ),
    ]
    print(result["importance"], flush=True)
    result["rates"] = []
    few = x[:200]
    for optimiser in ("natural", "adam", "rmsprop", "sgd"):
        for rate in RATES:
            found = run(bench, few, replace(RefineConfig(optimiser=optimiser), lr=rate))
            after = bound(bench, few, found.posterior)
            gain = after - first[: len(few)]
            result["rates"].append(
                {
                    "optimiser": optimiser,
                    "rate": rate,
                    "n": len(few),
                    "gain": float(gain.mean()),
                    "worst": float(gain.min()),
                    "stopped": int(found.diverged.sum()),
                    "finite": bool(after.isfinite().all()),
                }
            )
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["rates"], indent=1))


if __name__ == "__main__":
    main()
