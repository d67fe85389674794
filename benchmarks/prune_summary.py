"""Gather pruning runs into one result, and print it as a Markdown table.

    python benchmarks/prune_summary.py NAME RUN ... [--replace OLD=NEW ...]

A RUN is a run directory of `bnnkit prune`, or a file with the row that `peer_torch_pruning.py`
prints. Rows that differ in their seed alone make one line, with the deviation.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RESULTS = Path(__file__).parent / "results"
PROVENANCE = ("started", "seconds", "hardware", "versions", "threads", "device")


def of_prune(report: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one run of `prune`."""
    config = report["method"]["config"]
    target = {k: v for k, v in config["target"].items() if v is not None}
    return {
        "method": config["method"],
        "target": target,
        "cost": config["cost"] or ("macs" if target else "none"),
        "round_to": config["round_to"],
        "distill": config["recovery"]["distill"],
        "refitted": len(report.get("refitted", [])),
        "augment": _option(report["provenance"]["argv"], "--augment", "auto"),
        "epochs": config["train"]["epochs"],
        "seed": config["train"]["seed"],
        "error": report["slim"]["error"]["value"],
        "error_original": report["original"]["error"]["value"],
        "error_rise": report["paired"]["error_rise"],
        "macs_ratio": report["ratios"]["macs"],
        "parameters_ratio": report["ratios"]["parameters"],
        "speedup": {_setting(row): row["models"][-1]["speedup"] for row in report["latency"]},
        "units": {c["name"]: [c["size"], c["kept"]] for c in report["classes"]},
        "search": report.get("search"),
        "curve": report["curve"],
        "command": shlex.join(report["provenance"]["argv"]),
        "provenance": {k: report["provenance"].get(k) for k in PROVENANCE},
    }


def of_peer(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the peer in the same terms."""
    provenance = row["provenance"]
    return {
        "method": row["method"],
        "target": {"macs": row["target_macs"]},
        "distill": row["distill"],
        "refitted": 0,
        "augment": row.get("augment", "auto"),
        "seed": row["seed"],
        "error": row["error"],
        "error_before_training": row["error_before_training"],
        "error_original": row["error_original"],
        "macs_ratio": row["macs_original"] / row["macs"],
        "widths": row["widths"],
        "command": shlex.join(["python", *provenance["argv"][1:]]),
        "provenance": {k: provenance.get(k) for k in PROVENANCE},
    }


def _option(argv: list[str], name: str, default: str) -> str:
    """Return what an option of a command line was set to."""
    return argv[argv.index(name) + 1] if name in argv else default


def line(rows: list[dict[str, Any]]) -> str:
    """Write one line of the table: accuracy, and what the net costs."""
    first = rows[0]
    accuracy = [100 - row["error"] for row in rows]
    spread = f" ± {stdev(accuracy):.2f}" if len(rows) > 1 else ""
    cells = [
        f"{first['macs_ratio']:.2f}x",
        first["method"],
        f"{first['distill']:g}",
        first["augment"],
        str(first["refitted"]),
        f"{mean(accuracy):.2f}{spread}",
    ]
    for setting in ("onnxruntime, batch 1", "onnxruntime, batch 64"):
        times = [row.get("speedup", {}).get(setting, {}).get("value") for row in rows]
        cells.append("-" if None in times else f"{mean(times):.2f}x")
    return "| " + " | ".join([*cells, str(len(rows))]) + " |"


def main() -> None:
    """Read, trim, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--replace", nargs="*", default=[], metavar="OLD=NEW")
    args = parser.parse_args()
    rows = []
    for run in args.runs:
        text = (run / "report.json" if run.is_dir() else run).read_text(encoding="utf-8")
        for pair in args.replace:
            text = text.replace(*pair.split("=", 1))
        found = json.loads(text)
        rows.append(of_prune(found) if run.is_dir() else of_peer(found))
    rows.sort(key=lambda row: (-row["macs_ratio"] // 0.2, row["distill"], row["error"]))
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        same = ("method", "target", "cost", "round_to", "distill", "augment", "refitted", "epochs")
        alike = [row.get(k) for k in same]
        groups[json.dumps(alike, sort_keys=True)].append(row)
    print("| MACs | method | distilled | augment | layers refitted | accuracy, % | ONNX, batch 1 "
          "| batch 64 | seeds |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for group in groups.values():
        print(line(group))
    (RESULTS / f"{args.name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _setting(row: dict[str, Any]) -> str:
    return f"{row['runtime']}, batch {row['batch']}"


if __name__ == "__main__":
    main()
