"""What noise costs: a training step of ResNet-20 under each method against plain fine-tuning.

Every round times one step of each variant in random order, in one process, so that a slow moment
hits all of them; the ratio of medians is reported with a paired bootstrap interval.

    python benchmarks/train_overhead.py --rounds 30 --threads 2
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.graph.analyse import analyse
from bnnkit.methods import METHODS
from bnnkit.methods.base import Method, Setting
from bnnkit.run.latency.timing import speedup, time_interleaved
from bnnkit.run.precision import choose_device, choose_precision
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.spec.prune import PruneConfig, SbpConfig
from bnnkit.zoo import ZOO

OUT = Path(__file__).parent / "results" / "train_overhead.json"
LIMITS = {"sbp, inner channels": 1.15, "sbp": 1.3}
_BATCH = "sbp with one draw for the batch"


def step_of(
    model: nn.Module, method: Method | None, x: Tensor, y: Tensor, autocast: Callable[[], object]
) -> Callable[[], object]:
    """Return one training step: forward, backward, Adam."""
    groups = [{"params": list(model.parameters()), "lr": 1e-4}]
    if method is not None:
        groups += method.parameter_groups(1e-4)
        method.attach(model)
    optimiser = torch.optim.AdamW(groups)
    model.train()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with autocast():
            output = model(x)
        loss = F.cross_entropy(output.float(), y)
        if method is not None:
            loss = loss + method.penalty(0.5)
        torch.autograd.backward(loss)
        optimiser.step()
        if method is not None:
            method.after_step()

    return step


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    precision = choose_precision("auto", device)
    base = ZOO["resnet20-cifar"]()
    structure = analyse(base, torch.zeros(2, 3, 32, 32))
    inner = structure.restrict(["layer*.*.conv1"], [])
    x = precision.place(torch.randn(args.batch, 3, 32, 32), device)
    y = torch.randint(10, (args.batch,), device=device)
    steps: dict[str, Callable[[], object]] = {}
    for name in ("plain", *LIMITS, _BATCH, *(m for m in METHODS if m != "sbp")):
        model = precision.prepare(copy.deepcopy(base).to(device))
        method = None
        if name != "plain":
            kind = name.split()[0].strip(",")
            classes = inner if "inner" in name else structure
            config = PruneConfig(sbp=SbpConfig(noise="batch" if name == _BATCH else "example"))
            generator = torch.Generator(device).manual_seed(0)
            setting = Setting(classes, model, config, 50_000, generator, device)
            method = METHODS[kind](setting)
        steps[name] = step_of(model, method, x, y, lambda: precision.autocast(device))
    timings = time_interleaved(steps, min_rounds=args.rounds, max_seconds=600, device=device.type)
    rows = []
    for name in steps.keys() - {"plain"}:
        # `speedup` gives reference over other; the cost of the noise is its reciprocal.
        ratio = speedup(timings[name], timings["plain"])
        rows.append({"variant": name, "ratio": asdict(ratio), "limit": LIMITS.get(name),
                     "median_ms": timings[name].median})  # fmt: skip
    rows.sort(key=lambda row: row["median_ms"])
    for row in rows:
        print(f"{row['variant']}: {row['ratio']} (limit {row['limit']})")
    print(f"plain: {timings['plain'].median:.1f} ms a step")
    body = {
        "command": " ".join(["python", "benchmarks/train_overhead.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else cpu_model(),
        "threads": args.threads,
        "precision": precision.name,
        "batch": args.batch,
        "versions": versions(),
        "plain_ms": timings["plain"].median,
        "rows": rows,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
