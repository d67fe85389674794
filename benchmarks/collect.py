"""Copy the report of a run directory into `results/`, without the figures of single units.

python benchmarks/collect.py RUN NAME [--replace OLD=NEW ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Read, trim and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument(
        "--replace", action="append", default=[], help="rename a folder in the recorded paths"
    )
    args = parser.parse_args()
    text = (args.run / "report.json").read_text(encoding="utf-8")
    for pair in args.replace:
        old, _, new = pair.partition("=")
        text = text.replace(old, new)
    body = json.loads(text)
    for row in body.get("classes", []):
        row.pop("theta", None)
        row.pop("snr", None)
    for curves in ("reliability", "risk_coverage"):
        body.pop(curves, None)
    body.pop("grids", None)
    body.get("fit", {}).pop("correlation", None)
    body.get("fit", {}).pop("histogram", None)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
