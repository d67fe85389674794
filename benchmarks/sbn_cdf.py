"""Draw the empirical CDF of the predictive entropy in and out of domain, one panel a report.

python benchmarks/sbn_cdf.py OUT.svg benchmarks/results/sbn_cifar5_*.json

Figure 1 of Atanov et al. 2019: outside of its domain a net that knows what it does not know has a
curve further to the right.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SHOWN = {"batch norm": "#4c78a8", "low-rank SBN": "#e45756", "factorised SBN": "#54a24b"}


def main() -> None:
    """Read and draw."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("reports", type=Path, nargs="+")
    args = parser.parse_args()
    with rc_context({"svg.hashsalt": "bnnkit", "font.size": 9}):
        figure = Figure(figsize=(3.4 * len(args.reports), 3.1), layout="constrained")
        panels = figure.subplots(1, len(args.reports), sharey=True, squeeze=False)[0]
        for axes, path in zip(panels, args.reports, strict=True):
            curves = json.loads(path.read_text(encoding="utf-8"))["entropy_cdf"]
            for curve in curves:
                if curve["name"] not in SHOWN:
                    continue
                where = "known classes" if curve["inside"] else "other classes"
                axes.plot(
                    curve["entropy"], curve["cdf"], color=SHOWN[curve["name"]], linewidth=1.2,
                    linestyle="-" if curve["inside"] else "--",
                    label=f"{curve['name']}, {where}",
                )  # fmt: skip
            axes.set_xlabel("entropy of the prediction, nats")
            axes.set_title(path.stem)
        panels[0].set_ylabel("share of inputs below")
        panels[-1].legend(fontsize=7, loc="lower right")
        figure.savefig(args.out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
