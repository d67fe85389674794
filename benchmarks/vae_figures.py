"""Draw the figure of `docs/vae.md` from `results/vae_refine.json`.

python benchmarks/vae_figures.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
FIGURE = HERE.parent / "docs" / "figures" / "vae-refine.svg"


def main() -> None:
    """Draw bounds by posterior and by CPU time, and importance sampling by samples."""
    mpl.rcParams.update({"svg.hashsalt": "bnnkit", "font.size": 9})
    found = json.loads((HERE / "results" / "vae_refine.json").read_text("utf-8"))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(found["amortised"], color="0.4", linestyle=":", label="encoder")
    left.axhline(found["diagonal_optimum"], color="0.4", linestyle="--", label="best diagonal")
    for row in found["settings"]:
        left.plot(row["cpu_ms"], row["bound"], "o", label=row["setting"])
    left.set(xlabel="CPU time, ms an image", ylabel="bound, nats", title="Bound and cost")
    left.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    names: dict[str, list[tuple[int, float]]] = {}
    for row in found["importance"]:
        names.setdefault(row["posterior"], []).append((row["samples"], -row["nll"]))
    for name, points in names.items():
        right.plot(*zip(*sorted(points), strict=True), "o-", label=name)
    right.set(xlabel="importance samples", ylabel="log p(x), nats", xscale="log")
    right.set_title("By importance sampling")
    right.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
