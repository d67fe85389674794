"""How well a table of layer times tells the latency of slim nets: ResNet-20, eight random ones.

Layers are timed alone and added up; the slim nets are timed whole. One thread, in its own time,
so that other work on the machine disturbs little. What remains is shown as the relative error of
the predicted time and of the predicted speedup, and the rank correlation. Three decisions by
magnitude show what a choice by milliseconds buys over one by multiply-accumulates.

    python benchmarks/latency_table.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.cost import macs_cost
from bnnkit.graph.rebuild import make_slim
from bnnkit.graph.structure import Structure
from bnnkit.io.export import write_onnx
from bnnkit.io.runtimes import open_predictor
from bnnkit.methods.controls import magnitude_scores
from bnnkit.methods.select import choose
from bnnkit.run.latency.cost import calibrate
from bnnkit.run.latency.table import LatencyCost
from bnnkit.run.latency.timing import time_interleaved
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.zoo import ZOO

OUT = Path(__file__).parent / "results" / "latency_table.json"
SHAPE = (3, 32, 32)
ROUND_TO = (1, 1, 1, 1, 4, 4, 8, 8)


@dataclass
class Job:
    """The net, and where its slim forms lie."""

    model: nn.Module
    structure: Structure
    folder: Path

    def slim(self, name: str, keep: Tensor) -> nn.Module:
        """Return a slim net: a module, and its ONNX file under `name` in the folder."""
        theta = torch.ones(self.structure.n_units)
        module = make_slim(self.model, self.structure, keep, theta, form="graph").eval()
        write_onnx(module, torch.zeros(2, *SHAPE), self.folder / f"{name}.onnx")
        return module


def random_keeps(structure: Structure) -> list[Tensor]:
    """Return eight decisions: a random share of each class, some at multiples of 4 or 8."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for round_to in ROUND_TO:
        score = torch.rand(structure.n_units, generator=generator)
        shares = 0.3 + 0.6 * torch.rand(len(structure.classes), generator=generator)
        keep = torch.zeros(structure.n_units, dtype=torch.bool)
        for c, share in zip(structure.classes, shares.tolist(), strict=True):
            keep[c.units] = score[c.units] < share
        keep, _ = structure.ensure_alive(keep, score)
        out.append(structure.round_up(keep, score, round_to))
    return out


def measured(job: Job, modules: Mapping[str, nn.Module], runtime: str, batch: int) -> list[float]:
    """Return the median ms of each whole net, interleaved."""
    x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1))
    calls = {}
    for name, module in modules.items():
        source = module if runtime == "torch" else job.folder / f"{name}.onnx"
        predictor = open_predictor(source, threads=1)
        calls[name] = lambda predictor=predictor: predictor(x)
    timings = time_interleaved(calls, min_rounds=15, max_seconds=120, own=True)
    return [timing.median for timing in timings.values()]


def judged(cost: LatencyCost, keeps: Mapping[str, Tensor], ms: list[float]) -> dict[str, Any]:
    """Return how the predicted times of the random nets compare with the measured ones."""
    found = [cost.total(keep) for keep in keeps.values()]
    rows = [
        {"net": name, "measured_ms": round(m, 4), "predicted_ms": round(p, 4)}
        for name, m, p in zip(keeps, ms, found, strict=True)
    ]
    nets = [i for i, name in enumerate(keeps) if name.startswith("random")]
    ratio = [(found[i] / ms[i], found[i] / found[0] * ms[0] / ms[i]) for i in nets]
    return {
        "nets": rows,
        "rank_correlation": float(
            spearmanr([ms[i] for i in nets], [found[i] for i in nets]).statistic
        ),
        "relative_error": sum(abs(r - 1) for r, _ in ratio) / len(ratio),
        "relative_error_of_speedup": sum(abs(r - 1) for _, r in ratio) / len(ratio),
    }


def stairs(cost: LatencyCost) -> list[dict[str, Any]]:
    """Return the times of each kind of layer along both axes, the other at full width."""
    return [
        {
            "kind": times.kind,
            "ms_by_width_out": {
                o: round(row[-1], 5) for o, row in zip(times.out, times.ms, strict=True)
            },
            "ms_by_width_in": {
                i: round(ms, 5) for i, ms in zip(times.into, times.ms[-1], strict=True)
            },
        }
        for times in cost.table.times
    ]


def one(job: Job, keeps: Mapping[str, Tensor], modules: dict[str, nn.Module],
        runtime: str, batch: int) -> dict[str, Any]:  # fmt: skip
    """Calibrate, predict and measure, for one runtime and batch size."""
    wall, cpu = time.perf_counter(), time.process_time()
    cost = calibrate(job.model, job.structure, SHAPE, runtime=runtime, batch=batch)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    score = magnitude_scores(job.model, job.structure)
    by_ms = choose(job.structure, score, cost, 0.6 * cost.table.whole_ms)
    name = f"by ms {runtime} {batch}"
    all_keeps = {**keeps, name: by_ms}
    all_modules = {**modules, name: job.slim(name, by_ms)}
    result = judged(cost, all_keeps, measured(job, all_modules, runtime, batch))
    macs = macs_cost(job.model, job.structure)
    for row in result["nets"]:
        keep = all_keeps[row["net"]]
        row["speedup"] = round(result["nets"][0]["measured_ms"] / row["measured_ms"], 3)
        row["mac_ratio"] = round(macs.total(torch.ones(len(keep))) / macs.total(keep), 3)
        row["score_kept"] = round(float(score[keep].sum() / score.sum()), 4)
    print(
        f"{runtime}, batch {batch}: rank correlation {result['rank_correlation']:.3f}, error of "
        f"the time {result['relative_error']:.1%}, of the speedup "
        f"{result['relative_error_of_speedup']:.1%}, step that pays {cost.table.block()}, "
        f"calibrated in {wall:.0f} s ({cpu:.0f} s of CPU)"
    )
    for row in result["nets"]:
        print("  ", row)
    return {
        "runtime": runtime,
        "batch": batch,
        "calibration_seconds": round(wall, 1),
        "calibration_cpu_seconds": round(cpu, 1),
        **result,
        "fixed_ms": round(cost.table.fixed_ms, 5),
        "block": cost.table.block(),
        "blocks": cost.table.blocks(),
        "stairs": stairs(cost),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "torch"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ZOO["resnet20-cifar"]().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1, generator=generator)
    structure = analyse(model, torch.zeros(2, *SHAPE))
    score, macs = magnitude_scores(model, structure), macs_cost(model, structure)
    everything = torch.ones(structure.n_units, dtype=torch.bool)
    half = 0.5 * macs.total(everything)
    keeps = {"original": everything}
    keeps |= {f"random {i}": keep for i, keep in enumerate(random_keeps(structure))}
    keeps["by MACs"] = choose(structure, score, macs, half)
    keeps["by MACs, multiples of 8"] = choose(structure, score, macs, half, round_to=8)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(model, structure, Path(folder))
        modules = {name: job.slim(name, keep) for name, keep in keeps.items()}
        load = os.getloadavg()[0]
        rows = [
            one(job, keeps, modules, runtime, batch)
            for runtime in args.runtimes
            for batch in args.batches
        ]
    body = {
        "command": " ".join(["python", "benchmarks/latency_table.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": cpu_model(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "threads": 1,
        "versions": versions(),
        "rows": rows,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
