"""Hostile and broken model files: each must be refused in one message, and none may run anything.

Builds the set in a temporary folder, reads every file, and writes the counts to
`benchmarks/results/hostile_files.json`::

    python benchmarks/hostile_files.py [--cli] [--mutations 200] [--checkpoint FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hostile_set import Case, broken_cases, hostile_cases, mutations

from bnnkit.errors import BnnkitError
from bnnkit.io.checkpoint import read_checkpoint

__all__ = ["read_case", "run"]

RESULTS = Path(__file__).parent / "results" / "hostile_files.json"
CHECKPOINT = Path(__file__).resolve().parents[2] / "shared/checkpoints/resnet20-12fca82f.th"


def read_case(case: Case, *, cli: bool = False) -> tuple[str, str]:
    """Read one file.

    Args:
        case: The file.
        cli: Whether to run `python -m bnnkit inspect` in place of the library call.

    Returns:
        The outcome (`refused`, `same tensors`, `other tensors`, `accepted` or `fault`) and the
        message.
    """
    if cli:
        command = [sys.executable, "-m", "bnnkit", "inspect", str(case.path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).strip()
        if done.returncode == 2 and "Traceback" not in said:
            return "refused", said
        if done.returncode != 0:
            return "fault", f"exit {done.returncode}: {said}"
    try:
        # With harvest, as with --arch, because it reads more.
        tensors = read_checkpoint(case.path, harvest=True).tensors
    except BnnkitError as error:
        return ("accepted" if cli else "refused"), str(error)
    except BaseException as error:  # the one thing that must not happen
        return "fault", f"{type(error).__name__}: {error}"
    if case.original is None:
        return "accepted", ""
    before = read_checkpoint(case.original).tensors
    same = before.keys() == tensors.keys() and all(
        before[name].dtype == tensors[name].dtype and torch.equal(before[name], tensors[name])
        for name in before
    )
    return ("same tensors" if same else "other tensors"), ""


def _all_cases(folder: Path, command: str, count: int, checkpoint: Path) -> Iterator[Case]:
    yield from hostile_cases(folder, command)
    yield from broken_cases(folder)
    if checkpoint.exists():
        yield from mutations(folder, checkpoint, count, "mutated, sha256 in its name")
        # Under another name nothing but the structure speaks.
        bare = folder / "bare.th"
        bare.write_bytes(checkpoint.read_bytes())
        yield from mutations(folder, bare, count, "mutated, legacy without a checksum", seed=1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16))
    fresh = folder / "fresh.pt"
    torch.save(net.state_dict(), fresh)
    yield from mutations(folder, fresh, count, "mutated, zip", seed=2)
    from safetensors.torch import save_file

    tensors = folder / "fresh.safetensors"
    save_file(net.state_dict(), tensors)
    span = 8 + int.from_bytes(tensors.read_bytes()[:8], "little")
    yield from mutations(folder, tensors, count, "mutated, safetensors header", seed=3, span=span)


def run(count: int, checkpoint: Path, *, cli: bool) -> dict[str, Any]:
    """Build and read the whole set.

    Args:
        count: Mutations of each sound file.
        checkpoint: The real checkpoint to damage.
        cli: Whether to read through the command line.
    """
    started = time.time()
    counts: dict[str, Counter[str]] = {}
    messages: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    executed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        canary = folder / "canary"
        for case in _all_cases(folder, f"touch {canary}", count, checkpoint):
            outcome, message = read_case(case, cli=cli)
            counts.setdefault(case.kind, Counter())[outcome] += 1
            said = message.replace(str(folder), "DIR")
            if case.original is None or outcome == "fault":
                messages[f"{case.kind}: {case.name}"] = f"{outcome}: {said}"
            elif outcome == "refused":
                reasons["".join("#" if c.isdigit() else c for c in said)[:160]] += 1
            if canary.exists():
                executed.append(case.name)
                canary.unlink()
    return {
        "command": f"python benchmarks/hostile_files.py --mutations {count}{' --cli' * cli}",
        "read_through": "bnnkit inspect" if cli else "read_checkpoint(harvest=True)",
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"CPU, {platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seconds": round(time.time() - started, 1),
        "outcomes": {
            "refused": "one message, exit code 2",
            "same tensors": "the damage hit bytes that carry nothing (padding, dates, names of "
            "folders): every tensor is equal to the original's",
            "other tensors": "read, with other names or numbers: the form has no checksum there, "
            "so no reader can tell",
            "fault": "a traceback or another exit code",
            "accepted": "a hostile or broken file was read",
        },
        "executed": executed,
        "counts": {kind: dict(counter) for kind, counter in counts.items()},
        "files": messages,
        "reasons_of_mutations": dict(reasons.most_common(40)),
    }


def main() -> int:
    """Run from the command line; the exit code is 1 where a file got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cli", action="store_true", help="read through 'bnnkit inspect'")
    parser.add_argument("--mutations", type=int, default=200, help="of each sound file")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = run(options.mutations, options.checkpoint, cli=options.cli)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for kind, counter in result["counts"].items():
        print(f"{kind}: {counter}")
    print(f"executed: {len(result['executed'])}")
    bad = sum(c.get("fault", 0) + c.get("accepted", 0) for c in result["counts"].values())
    return int(bool(bad or result["executed"]))


if __name__ == "__main__":
    sys.exit(main())
