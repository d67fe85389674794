"""How long it takes to find the channel classes of a net, on one core.

python benchmarks/analysis_time.py
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from bnnkit.graph.analyse import analyse
from bnnkit.io.architectures import build_architecture
from bnnkit.run.provenance import cpu_model, versions

OUT = Path(__file__).parent / "results" / "analysis_time.json"
LIMITS = {"torchvision:resnet18": 5.0, "torchvision:densenet121": 30.0}


def main() -> None:
    """Analyse each net at 224 x 224 and write the seconds."""
    torch.set_num_threads(1)
    rows = []
    for arch, limit in LIMITS.items():
        model = build_architecture(arch, {}, seed=0)
        began = time.perf_counter()
        structure = analyse(model, torch.zeros(2, 3, 224, 224))
        seconds = time.perf_counter() - began
        rows.append(
            {"arch": arch, "seconds": round(seconds, 2), "limit": limit,
             "classes": len(structure.classes), "units": structure.n_units}
        )  # fmt: skip
        print(f"{arch}: {seconds:.1f} s (limit {limit:.0f} s)")
    body = {
        "command": " ".join(["python", "benchmarks/analysis_time.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": cpu_model(),
        "threads": 1,
        "versions": versions(),
        "rows": rows,
    }
    OUT.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
