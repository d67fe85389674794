"""Implicit Metropolis-Hastings where p and q are known: is it exact, and what learning costs.

python benchmarks/mh_toy.py [--seeds 0 1 2]

p is a mixture of two Gaussians in the plane, q a broad Gaussian. With the exact ratio, chains
that start far from p are compared with fresh samples of p by two-sample tests; wrong ratios show
what the tests can see. With a ratio that a small net has learned, the chain's distribution is
q times the learned weight: its total variation from p is integrated on a grid.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from scipy.optimize import minimize
from torch import Tensor, nn

from bnnkit.bayes.accept import independent
from bnnkit.bayes.accept.bounds import tv_bound
from bnnkit.methods.mh.chains import bank_chains
from bnnkit.methods.mh.objectives import log_d, single_loss
from bnnkit.run.provenance import cpu_model, versions

RESULT = Path(__file__).parent / "results" / "mh_toy.json"
SHARES = torch.tensor([0.375, 0.625])
CENTRES = torch.tensor([[-1.8, -0.8], [1.8, 0.8]])
SPREADS = torch.tensor([[0.9, 0.6], [0.7, 0.9]])
BROAD = 2.2
SAMPLES = 50_000
FLOOR = 0.01
EDGE, CELLS = 11.0, 500


def log_p(x: Tensor) -> Tensor:
    """Return the log density of p at `[n, 2]`."""
    z = (x[:, None] - CENTRES.to(x)) / SPREADS.to(x)
    each = -0.5 * z.square().sum(2) - SPREADS.to(x).log().sum(1) - math.log(2 * math.pi)
    return torch.logsumexp(each + SHARES.to(x).log(), 1)


def log_q(x: Tensor) -> Tensor:
    """Return the log density of q at `[n, 2]`."""
    return -0.5 * (x / BROAD).square().sum(1) - math.log(2 * math.pi * BROAD**2)


def log_w(x: Tensor) -> Tensor:
    """Return log p/q."""
    return log_p(x) - log_q(x)


def from_p(n: int, draw: torch.Generator) -> Tensor:
    """Sample p."""
    part = torch.multinomial(SHARES, n, replacement=True, generator=draw)
    return CENTRES[part] + SPREADS[part] * torch.randn(n, 2, generator=draw)


def from_q(n: int, draw: torch.Generator) -> Tensor:
    """Sample q."""
    return BROAD * torch.randn(n, 2, generator=draw)


def fresh_chains(temperature: float, draw: torch.Generator, length: int = 100) -> Tensor:
    """Run one chain a sample, from q and not from p, over proposals that are used once."""
    x = from_q(SAMPLES, draw)
    state = independent.init(x, log_w(x) / temperature)
    for _ in range(length):
        x = from_q(SAMPLES, draw)
        uniform = torch.rand(SAMPLES, generator=draw)
        state, _ = independent.step(state, x, log_w(x) / temperature, uniform)
    return state.position


def filtered_bank(draw: torch.Generator) -> Tensor:
    """Run the chains of `bnnkit mh-filter`: over a bank, from held-out samples of p."""
    bank = from_q(2_000_000, draw)
    starts = log_w(from_p(10_000, draw))
    return bank[bank_chains(log_w(bank), starts, SAMPLES, 100, draw).rows]


def two_sample(x: Tensor, y: Tensor, draw: torch.Generator) -> dict[str, float]:
    """Return p-values: Kolmogorov-Smirnov on projections, and characteristic functions.

    The first is the least of 16 directions and the radius, times 17 (Bonferroni). The second is
    the squared distance of the characteristic functions at 64 frequencies of three scales, in a
    permutation test of 199 permutations: its least value is 1/200.
    """
    angles = torch.arange(16) * math.pi / 16
    lines = torch.stack([angles.cos(), angles.sin()])
    columns = zip(
        torch.cat([x @ lines, x.norm(dim=1)[:, None]], 1).T.numpy(),
        torch.cat([y @ lines, y.norm(dim=1)[:, None]], 1).T.numpy(),
        strict=True,
    )
    ks = min(float(stats.ks_2samp(a, b).pvalue) for a, b in columns)
    scales = torch.tensor([0.4, 1.0, 2.5])[torch.arange(64) % 3]
    angle = torch.cat([x, y]) @ (torch.randn(2, 64, generator=draw) * scales)
    features = torch.cat([angle.cos(), angle.sin()], 1)
    signs = torch.ones(200, len(features))
    signs[0, len(x) :] = -1
    for row in signs[1:]:
        row[torch.randperm(len(row), generator=draw)[: len(y)]] = -1
    distance = (signs @ features).square().sum(1)
    share = float((distance >= distance[0]).double().mean())
    return {"ks_projections": min(1.0, 17 * ks), "characteristic_functions": share}


class Grid:
    """Densities and chains by integration: midpoints of square cells on [-11, 11]^2."""

    def __init__(self) -> None:
        side = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * 2 * EDGE / CELLS - EDGE
        self.points = torch.cartesian_prod(side, side)
        area = (2 * EDGE / CELLS) ** 2
        self.p, self.q = (f(self.points).exp() * area for f in (log_p, log_q))
        self.log_w = log_w(self.points)

    def best_bounded(self) -> Tensor:
        """Return log d of the d in [b, 1] that minimises the upper bound, a function of p/q."""
        cell = torch.bucketize(self.log_w, torch.linspace(-12, float(self.log_w.max()), 600))
        p, q = (torch.bincount(cell, m, 601).numpy() for m in (self.p, self.q))

        def value(s: np.ndarray) -> tuple[float, np.ndarray]:
            up, down = q * np.exp(s), p * np.exp(-s)
            slope = q - p + up * down.sum() - down * up.sum()
            return float((q - p) @ s + up.sum() * down.sum()), slope

        low = math.log(FLOOR)
        found = minimize(
            value, np.full(601, low / 2), jac=True, bounds=[(low, 0.0)] * 601, method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-11, "maxiter": 2000},
        )  # fmt: skip
        return torch.from_numpy(found.x)[cell]

    def distance(self, score: Tensor) -> float:
        """Return TV(t, p) of the chain's distribution t, proportional to q exp(score)."""
        t = self.q * (score - score.max()).exp()
        return 0.5 * float((t / t.sum() - self.p).abs().sum())

    def acceptance(self, score: Tensor) -> float:
        """Return the mean acceptance of y ~ p, x ~ q under weights exp(score)."""
        score = score - score.max()
        order = score.argsort()
        w, p, q = score[order].exp(), self.p[order], self.q[order]
        smaller = (q * w).cumsum(0) - q * w  # cells of smaller weight: w(x) / w(y)
        larger = q.flip(0).cumsum(0).flip(0)
        return float((p * (torch.where(w > 0, smaller / w, 0.0) + larger)).sum())


def learn(loss: str, seed: int, draw: torch.Generator) -> nn.Module:
    """Train a small net on 20,000 samples of each side; it is float64 when it comes back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )
    real, fake = from_p(20_000, draw), from_q(20_000, draw)
    steps, size = 1000, 256
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        y, x = (s[torch.randint(len(s), (size,), generator=draw)] for s in (real, fake))
        forward, backward = net(torch.cat([y, x])).squeeze(1).split(size)
        optimiser.zero_grad()
        single_loss(forward, backward, loss, FLOOR).backward()
        optimiser.step()
        schedule.step()
    return net.double()


def learned(loss: str, seed: int, grid: Grid) -> dict[str, object]:
    """Measure a learned ratio: what it costs, and what can be told of it from samples."""
    draw = torch.Generator().manual_seed(1000 + seed)
    net = learn(loss, seed, draw)

    @torch.no_grad()
    def score(x: Tensor) -> Tensor:
        logit = net(x.double()).squeeze(1)
        return log_d(logit, FLOOR) if loss == "ub" else logit

    real, fake = score(from_p(10_000, draw)), score(from_q(10_000, draw))
    rate = independent.acceptance_rate(real, fake)
    everywhere = score(grid.points)
    row = {
        "loss": loss,
        "seed": seed,
        "tv_of_chain_and_p": grid.distance(everywhere),
        "acceptance": rate,
        "theorem_1_estimate": 1 - rate,
        "acceptance_by_integration": grid.acceptance(everywhere),
    }
    if loss == "ub":
        a = fake[None, :2000] - real[:2000, None]
        divergence = float(((grid.p - grid.q) * grid.log_w).sum())
        bound = tv_bound(float((a + a.exp()).mean()), divergence, FLOOR)
        row |= {"upper_bound_loss": bound.loss, "gap": bound.gap, "bound_on_tv2": bound.bound}
        row["vacuous"] = bound.vacuous
    return row


def exactness(seed: int) -> list[dict[str, object]]:
    """Compare chains of the exact ratio, and of wrong ones, with fresh samples of p."""
    ways = {
        "exact ratio, fresh proposals": lambda draw: fresh_chains(1.0, draw),
        "exact ratio, bank of 2,000,000": filtered_bank,
        "ratio to the power of 1/1.15": lambda draw: fresh_chains(1.15, draw),
        "q unfiltered": lambda draw: from_q(SAMPLES, draw),
        "p itself": lambda draw: from_p(SAMPLES, draw),
    }
    rows = []
    for i, (name, run) in enumerate(ways.items()):
        draw = torch.Generator().manual_seed(100 * seed + i)
        found = two_sample(run(draw), from_p(SAMPLES, draw), draw)
        rows.append({"way": name, "seed": seed, "p_values": found})
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    grid = Grid()
    exact = grid.acceptance(grid.log_w)
    tests = [row for seed in args.seeds for row in exactness(seed)]
    rows = [learned(loss, s, grid) for loss in ("bce", "mce", "ub") for s in args.seeds]
    result = {
        "command": f"python benchmarks/mh_toy.py --seeds {' '.join(map(str, args.seeds))}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions(),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "samples": SAMPLES,
        "two_sample_tests": tests,
        "by_integration": {
            "mass_on_the_grid": [float(grid.p.sum()), float(grid.q.sum())],
            "tv_of_q_and_p": grid.distance(torch.zeros_like(grid.log_w)),
            "tv_of_exact_chain_and_p": grid.distance(grid.log_w),
            f"tv_of_chain_and_p_at_the_upper_bounds_minimum_b={FLOOR}": grid.distance(
                grid.best_bounded()
            ),
            "acceptance_of_the_exact_ratio": exact,
            "tv_of_p(y)q(x)_and_p(x)q(y)": 1 - exact,
        },
        "learned": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
