"""Annealed variational objectives on energies in the plane: modes, their weights, bounds.

python benchmarks/avo_toy.py [--seeds 0 1 2 3 4]

The four-mode energy D on all seeds, as it is and with its modes twice as far, also with biased
noise in the gradient and with three times the steps; the other energies, and every method, on the
first seed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from bnnkit.methods.annealed import Landscape, assess, fit, make_energy, survey
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.spec.avo import FLOWS, METHODS, AvoToyConfig

RESULT = Path(__file__).parent / "results" / "avo_toy.json"
MAIN = ("elbo", "avo", "avo+elbo")
BASE = AvoToyConfig()


def measure(
    name: str, method: str, config: AvoToyConfig, truth: Landscape, bias: float = 0.0
) -> dict[str, object]:
    """Train and judge one method."""
    energy = make_energy(name, config.spacing)
    trained = fit(energy, method, config, bias=bias)
    draw = torch.Generator().manual_seed(1000 + config.seed)
    found = assess(trained.sampler, energy, truth, config.samples, draw)
    row = {
        "energy": name,
        "spacing": config.spacing,
        "method": method,
        "seed": config.seed,
        "steps": config.steps,
        "bias": bias,
        "gap": round(found.gap, 4),
        "error": round(found.error, 4),
        "log_z_error": round(found.log_z - truth.log_z, 4),
        "ess_share": round(found.ess_share, 4),
        "visited": found.visited,
        "known": len(truth.weights),
        "shares": [round(s, 4) for s in found.shares],
        "tv": round(found.tv, 4),
        "seconds": round(trained.seconds, 1),
    }
    print(json.dumps(row), flush=True)
    return row


def described(truth: Landscape) -> dict[str, object]:
    """Return what integration says."""
    return {
        "log_z": round(truth.log_z, 4),
        "weights": [round(w, 4) for w in truth.weights.tolist()],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    begun = time.process_time()
    near, far = (survey(make_energy("d", s)) for s in (1.0, 2.0))
    truths = {"d": near} | {name: survey(make_energy(name)) for name in "abcef"}
    rows = []
    for seed in seeds:
        config = replace(BASE, seed=seed)
        twice = replace(config, spacing=2.0)
        rows += [measure("d", method, config, near) for method in MAIN]
        rows += [measure("d", method, twice, far) for method in MAIN]
        rows += [measure("d", m, config, near, BASE.bias) for m in ("elbo", "avo")]
    first = replace(BASE, seed=seeds[0])
    rest = [m for m in METHODS if m not in MAIN]
    rows += [measure("d", method, first, near) for method in rest]
    rows += [measure("d", method, replace(first, spacing=2.0), far) for method in rest]
    long = replace(first, steps=3 * BASE.steps)
    rows += [measure("d", method, long, near) for method in MAIN]
    rows += [measure(n, m, first, truths[n]) for n in "abcef" for m in (*MAIN, *FLOWS)]
    result = {
        "command": f"python benchmarks/avo_toy.py --seeds {' '.join(map(str, seeds))}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions(),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "config": asdict(BASE),
        "truth": {name: described(t) for name, t in {**truths, "d, twice as far": far}.items()},
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
