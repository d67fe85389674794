"""How long an image folder takes to load, and how many augmented images a second it then gives.

    python benchmarks/data_loading.py CIFAR_FOLDER

The folder is the unpacked JPEG CIFAR-10: train/CLASS/*.jpg and test/CLASS/*.jpg. Writes
results/data_loading.json beside this file. An augmented image is a random crop with padding 4 and
a mirror image, normalised to float32. Run it on idle cores: a load average that is not near zero
before the start means that these are the figures of a shared machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bnnkit.io.data import Dataset, Split, load_data
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


def measure_loads(folder: Path, repeats: int) -> tuple[Dataset, dict[str, Any]]:
    """Load the folder several times; return the data, and wall and processor seconds."""
    walls, works = [], []
    for _ in range(repeats):
        wall, work = time.perf_counter(), time.process_time()
        data = load_data(DataSpec(str(folder)))
        walls.append(round(time.perf_counter() - wall, 2))
        works.append(round(time.process_time() - work, 2))
    median = statistics.median(walls)
    return data, {
        "seconds": walls,
        "cpu_seconds": works,
        "median": median,
        "limit": LOAD_LIMIT_S,
        "passed": median <= LOAD_LIMIT_S,
    }


def measure_rates(split: Split, threads: int, batch: int, epochs: int) -> dict[str, Any]:
    """Go through augmented epochs with so many threads; return images a second."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    rates = [round(epoch_rate(split, batch, generator)) for _ in range(epochs)]
    median = statistics.median(rates)
    return {
        "threads": threads,
        "images_per_second": rates,
        "median": median,
        "limit": RATE_LIMIT,
        "passed": median >= RATE_LIMIT,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    busy = os.getloadavg()[0]  # before our own work: what else the cores had to do
    data, load = measure_loads(options.folder, 3)
    result = {
        "command": "python benchmarks/data_loading.py CIFAR_FOLDER "
        f"--batch {options.batch} --epochs {options.epochs}",
        "date": datetime.date.today().isoformat(),
        "hardware": {"processor": processor(), "cores": os.cpu_count()},
        "load_average_before": round(busy, 2),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "images": len(data.train) + len(data.test),
        "input_shape": data.input_shape,
        "load": load,
        "augmented": [
            measure_rates(data.train, threads, options.batch, options.epochs) for threads in (1, 2)
        ],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
