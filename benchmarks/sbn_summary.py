"""Print the mean and deviation over seeds of `sbn-fit` reports, as a Markdown table.

python benchmarks/sbn_summary.py benchmarks/results/sbn_resnet20_jpeg_*.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

FIGURES = (("error", 2), ("nll", 4), ("ece", 2), ("brier", 4))


def spread(values: list[float], digits: int) -> str:
    """Write a mean, and the deviation where there are several values."""
    sd = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{sd}"


def areas(rows: list[dict], score: str) -> str:
    """Write the AUROC of a score on the first set of another domain."""
    found = [next(iter(row.get("ood", {}).values()), {}).get(score) for row in rows]
    known = [f["auroc"]["value"] for f in found if f]
    return spread(known, 2) if known else "-"


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+")
    reports = [json.loads(p.read_text(encoding="utf-8")) for p in parser.parse_args().reports]
    names = list(dict.fromkeys(row["name"] for r in reports for row in r["methods"]))
    print("| method | K | error, % | NLL | against batch norm | ECE, % | Brier | AUROC by entropy "
          "| by expected entropy |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        rows = [row for r in reports for row in r["methods"] if row["name"] == name]
        rows = [row for row in rows if row["n"] == max(r["n"] for r in rows)]
        cells = [spread([row[key]["value"] for row in rows], digits) for key, digits in FIGURES]
        rises = [
            100 * row["paired"]["nll_rise"]["value"] / (row["nll"]["value"]
            - row["paired"]["nll_rise"]["value"])
            for row in rows if "paired" in row
        ]  # fmt: skip
        change = f"{spread(rises, 1)} %" if rises else "-"
        cells.insert(2, change)
        print(f"| {rows[0]['label']} | {rows[0]['samples']} | " + " | ".join(cells)
              + f" | {areas(rows, 'entropy')} | {areas(rows, 'expected_entropy')} |")  # fmt: skip


if __name__ == "__main__":
    main()
