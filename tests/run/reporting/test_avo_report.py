"""The report of `avo-toy` as Markdown, terminal text and page, from whatever a file holds."""

import pytest
import torch

from bnnkit.run.reporting.avo_plots import coarser, densities_png
from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.spec.report import Quantity, Report


def sections():
    row = {"method": "avo", "visited": 3, "known": 4, "tv": 0.05, "shares": [0.4, 0.3, 0.2, 0.1],
           "bound": Quantity(-0.25, "nats", 100, -0.26, -0.24), "gap": 0.25, "log_z": -1e-9,
           "ess_share": 0.5, "seconds": 12.3, "curve": []}  # fmt: skip
    return {
        "model": {"arch": "energy d", "notes": []},
        "method": {"name": "avo-toy", "config": {"bias": 3.0}},
        "truth": {"log_z": 0.0, "modes": 4, "weights": [0.4, 0.3, 0.2, 0.1]},
        "approximations": [row],
        "robustness": [{**row, "visited": 1}],
        "grids": [],
        "verdict": ["ELBO covers 4."],
    }


def test_a_ci_summary_holds_every_table():
    text = to_markdown(Report("avo-toy", {}, sections()))
    row = "| avo | 3 of 4 | 0.050 | -0.250 \\[-0.260, -0.240\\] | 0.250 | 0.000 | 0.50 | 12.3 |"
    for words in ("### Approximations", row, "by integration", "mean 3.0", "| avo | 1 of 4"):
        assert words in text
    assert "3 of 4 modes" in render_html(Report("avo-toy", {}, sections()))


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [{}], {"shares": 3},
                                  [{"shares": [1], "method": {}}], {"weights": "a"},
                                  {"weights": [None, "x"]}])  # fmt: skip
def test_malformed_sections_are_survived(junk, written):
    body = Report("avo-toy", {}, dict.fromkeys(sections(), junk))
    to_markdown(body)
    written(body, width=200)
    render_html(body)


def test_densities_of_any_number():
    density = torch.rand(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks = coarser(density, 3)
    assert float(blocks[0, 1]) == pytest.approx(float(density[:3, 3:6].mean()))
    for count in (1, 5, 7):
        png = densities_png([("a", blocks)] * count, 2.0)
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == min(count, 5) * 195
