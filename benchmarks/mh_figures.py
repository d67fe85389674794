"""Draw the figures of `docs/mh.md` from a run of `mh-filter --trace`.

python benchmarks/mh_figures.py RUN
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
GAP = 24


def grids(run: Path) -> None:
    """Set the raw and the filtered grid side by side."""
    left, right = (Image.open(run / name) for name in ("samples-raw.png", "samples.png"))
    sheet = Image.new("RGB", (left.width + GAP + right.width, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + GAP, 0))
    sheet.quantize(32).save(FIGURES / "mh-mnist.png", optimize=True)


def curves(report: dict) -> None:
    """Draw distance and Inception score along the training, and distance along the chain."""
    mpl.rcParams.update({"svg.hashsalt": "bnnkit", "font.size": 9})
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots(1, 3)
    judge = report["extractors"][0]["name"]
    steps = [row["step"] for row in report["trace"]]
    for ax, key, title in (
        (axes[0], "fid", f"Fréchet distance, {judge}"),
        (axes[1], "is", "Inception score"),
    ):
        found = [row[key][judge] if key == "fid" else row[key] for row in report["trace"]]
        ax.errorbar(steps, [f["mean"] for f in found], [f["sd"] for f in found], marker="o", ms=3)
        ax.set(xscale="log", xlabel="training steps of the discriminator", title=title)
    rows = report["length_curve"]
    axes[2].plot(
        [row["length"] for row in rows], [row["metrics"][judge]["fid"] for row in rows], "o-", ms=3
    )
    floor = next(row for row in report["samplers"] if row["name"] == "floor")
    axes[2].axhline(floor["metrics"][judge]["fid"], ls="--", c="grey")
    axes[2].set(
        xscale="log", yscale="log", xlabel="proposals offered to a chain",
        title="Fréchet distance; dashed: real images",
    )  # fmt: skip
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURES / "mh-curves.svg", metadata={"Date": None})


def main() -> None:
    """Read the run and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    grids(run)
    curves(json.loads((run / "report.json").read_text("utf-8")))


if __name__ == "__main__":
    main()
