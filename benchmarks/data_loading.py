"""How long an image folder takes to load, and how many augmented images a second it then gives.

    python benchmarks/data_loading.py CIFAR_FOLDER

The folder is the unpacked JPEG CIFAR-10: train/CLASS/*.jpg and test/CLASS/*.jpg. Writes
results/data_loading.json beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from bnnkit.io.data import Split, load_data
from bnnkit.spec import DataSpec

RESULT = Path(__file__).parent / "results" / "data_loading.json"
LOAD_LIMIT_S = 30
RATE_LIMIT = 20_000


def processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def epoch_rate(split: Split, batch: int, generator: torch.Generator) -> float:
    """Return the images a second of one shuffled, augmented, normalised epoch."""
    seen, start = 0, time.perf_counter()
    for x, _ in split.batches(batch, shuffle=True, augment=True, generator=generator):
        seen += len(x)
    return seen / (time.perf_counter() - start)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    loads = []
    for _ in range(3):
        start = time.perf_counter()
        data = load_data(DataSpec(str(options.folder)))
        loads.append(time.perf_counter() - start)
    generator = torch.Generator().manual_seed(0)
    rates = [epoch_rate(data.train, options.batch, generator) for _ in range(options.epochs)]
    result = {
        "command": "python benchmarks/data_loading.py CIFAR_FOLDER "
        f"--threads {options.threads} --batch {options.batch} --epochs {options.epochs}",
        "date": datetime.date.today().isoformat(),
        "hardware": {"processor": processor(), "threads": options.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "images": len(data.train) + len(data.test),
        "input_shape": data.input_shape,
        "load": {"seconds": [round(v, 2) for v in loads], "limit": LOAD_LIMIT_S},
        "augmented": {
            "what": "random crop with padding 4, mirror, normalise to float32",
            "images_per_second": [round(v) for v in rates],
            "median": round(statistics.median(rates)),
            "limit": RATE_LIMIT,
        },
        "passed": max(loads) <= LOAD_LIMIT_S and statistics.median(rates) >= RATE_LIMIT,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
