"""A long NUTS run of the breast-cancer regression by pyro, the reference of `mh-proposal`.

python benchmarks/logreg_nuts.py [--draws 5000] [--chains 4]

The model is written down here once more, in pyro's own words: standardised features, a constant
first, a standard normal prior on all 31 coefficients.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from bnnkit.run.provenance import cpu_model, versions

RESULT = Path(__file__).parent / "results" / "logreg_breast_cancer_nuts.json"


def model(design: torch.Tensor, labels: torch.Tensor) -> None:
    """Say what is assumed."""
    size = design.shape[1]
    w = pyro.sample("w", dist.Normal(design.new_zeros(size), design.new_ones(size)).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=design @ w).to_event(1), obs=labels)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=4)
    args = parser.parse_args()
    bunch = load_breast_cancer()
    x = torch.from_numpy(StandardScaler().fit_transform(bunch.data))
    design = torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1)
    labels = torch.from_numpy(bunch.target).to(x.dtype)
    begun, draws = time.perf_counter(), []
    for seed in range(args.chains):
        pyro.set_rng_seed(seed)
        kernel = NUTS(model, jit_compile=True, ignore_jit_warnings=True)
        mcmc = MCMC(kernel, args.draws, warmup_steps=args.warmup, disable_progbar=True)
        mcmc.run(design, labels)
        draws.append(mcmc.get_samples()["w"])
        print(f"chain {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
    w = torch.stack(draws)  # [chains, draws, 31]
    n_eff = pyro.ops.stats.effective_sample_size(w)
    r_hat = pyro.ops.stats.split_gelman_rubin(w)
    flat = w.flatten(0, 1)
    result = {
        "command": f"python benchmarks/logreg_nuts.py --draws {args.draws} "
        f"--warmup {args.warmup} --chains {args.chains}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions() | {"pyro-ppl": pyro.__version__},
        "seconds": round(time.perf_counter() - begun, 1),
        "source": f"NUTS by pyro {pyro.__version__}, {args.chains} x {args.draws} draws",
        "least_ess": round(float(n_eff.min()), 1),
        "largest_rhat": round(float(r_hat.max()), 5),
        "error": round(float(n_eff.rsqrt().max()), 5),
        "mean": [round(float(v), 6) for v in flat.mean(0)],
        "sd": [round(float(v), 6) for v in flat.std(0)],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
