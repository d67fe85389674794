"""Gather `mh-filter` reports into one result, and print it as a Markdown table.

python benchmarks/mh_summary.py NAME TITLE=RUN,RUN,RUN ... [--replace OLD=NEW ...]

Each title is one setting, its runs the seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RESULTS = Path(__file__).parent / "results"
CHAIN = ("acceptance", "acceptance_from_real", "unique_share", "per_second", "length")


def plain(figure: Any) -> float | None:  # noqa: ANN401 - a number or a quantity
    """Return the number of a figure."""
    return figure.get("value") if isinstance(figure, dict) else figure


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Keep what a table needs of one report."""
    rows = []
    for row in report["samplers"]:
        kept = {k: row.get(k) for k in ("name", "delivered", "n", "classes", "class_tv")}
        kept["metrics"] = {
            judge: {k: plain(v) for k, v in found.items()}
            for judge, found in row["metrics"].items()
        }
        rows.append(kept)
    found = report["discriminator"]
    return {
        "command": shlex.join(report["provenance"]["argv"]),
        "provenance": {
            k: report["provenance"].get(k)
            for k in ("started", "hardware", "versions", "threads", "device")
        },
        "seed": report["splits"]["seed"],
        "discriminator": {k: found.get(k) for k in ("kind", "name", "loss", "temperature")}
        | {"seconds": found.get("seconds"), "auc": plain(found.get("auc"))}
        | {"candidates": found.get("candidates")},
        "chain": {k: plain(report["chain"].get(k)) for k in CHAIN},
        "bound": report.get("bound"),
        "samplers": rows,
        "length_curve": report.get("length_curve"),
        "trace": report.get("trace"),
    }


def spread(values: list[float | None], digits: int) -> str:
    """Write a mean, and the deviation where there are several values."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    sd = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{sd}"


def line(title: str, rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    """Write one line of the table."""
    judges = list(rows[0]["metrics"])
    cells = [title]
    for judge in judges:
        cells.append(spread([row["metrics"][judge].get("fid") for row in rows], 2))
    cells.append(spread([rows[i]["metrics"][judges[0]].get("is") for i in range(len(rows))], 2))
    shares = [row["classes"] or [0.0] for row in rows]
    cells.append(f"{min(map(min, shares)):.1f} to {max(map(max, shares)):.1f}")
    cells.append(spread([row["metrics"][judges[0]].get("recall") for row in rows], 2))
    cells.append(spread([run["chain"]["acceptance"] for run in runs], 2) if runs else "-")
    cells.append(spread([run["discriminator"]["seconds"] for run in runs], 0) if runs else "-")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Read, trim, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--replace", action="append", default=[])
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for setting in args.settings:
        title, _, runs = setting.partition("=")
        texts = [(Path(run) / "report.json").read_text("utf-8") for run in runs.split(",")]
        for pair in args.replace:
            old, _, new = pair.partition("=")
            texts = [text.replace(old, new) for text in texts]
        found[title] = [summary(json.loads(text)) for text in texts]
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"{args.name}.json"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    first = next(iter(found.values()))
    judges = list(first[0]["samplers"][0]["metrics"])
    heads = ["", *(f"Fréchet, {judge}" for judge in judges), "IS", "classes, %", "recall"]
    heads += ["acceptance", "training, CPU s"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name in ("raw", "floor"):
        rows = [row for run in first for row in run["samplers"] if row["name"] == name]
        print(line(name, rows, []))
    for title, runs in found.items():
        rows = [row for run in runs for row in run["samplers"] if row["delivered"]]
        print(line(title, rows, runs))


if __name__ == "__main__":
    main()
