"""The report of `mh-proposal` as Markdown, terminal text and page, from whatever a file holds."""

import pytest

from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.spec.report import Quantity, Report


def sections():
    return {
        "model": {"arch": "mixture6", "notes": ["a | note"]},
        "method": {"name": "mh-proposal", "config": {}},
        "training": {
            "family": "mixture", "objective": "kl", "steps": 100, "seconds": 3.2,
            "curve": [{"step": i, "objective": -9.0 / i, "acceptance": i / 10} for i in (1, 5, 9)],
        },
        "sampling": {
            "dim": 2, "chains": 64, "draws": 2000,
            "acceptance": Quantity(0.99, "", 128000, 0.98, 0.995), "acceptance_moved": 0.991,
            "ess": 124000.0, "ess_median": 125000.0, "ess_per_draw": 0.976,
            "ess_per_second": 51234.0, "rhat": 1.0001, "worst_coordinate": 1, "unmoved": 0,
            "late": 0, "weight_ess_share": 0.97, "pareto_k": 0.12, "seconds": 2.48,
        },
        "modes": {"shares": [0.25, 0.75], "weights": [0.3, 0.7], "visited": 2, "known": 2,
                  "tv": 0.05, "n": 100},
        "bias": {"largest": 0.004, "mean": 0.002, "coordinate": 1, "sd_ratio_low": 0.99,
                 "sd_ratio_high": 1.01, "error": 0.003, "reference_error": 0.0,
                 "reference": "closed form"},
        "good": True,
        "verdict": ["Nothing speaks against these samples: R-hat 1.0001."],
    }  # fmt: skip


def report(**changes):
    return Report("mh-proposal", {}, {**sections(), **changes})


def test_a_ci_summary_holds_every_table():
    text = to_markdown(report())
    assert text.startswith("## bnnkit mh-proposal: mixture6\n\nNothing speaks against")
    for title in ("Training", "Chains under the frozen proposal", "Modes", "Bias"):
        assert f"### {title}\n" in text
    for row in ("| acceptance | 0.9900 \\[0.9800, 0.9950\\] |", "| R-hat, largest | 1.0001 |",
                "| 1 | 75.00 | 70.00 |", "| sd / reference sd | 0.990 to 1.010 |",
                "| 9 | -1 | 0.900 |"):  # fmt: skip
        assert row in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("| ")]
    assert all(width >= 3 for width in widths)


@pytest.mark.parametrize("missing", ["training", "sampling", "modes", "bias", "verdict", "model"])
def test_a_missing_section_leaves_its_table_out(missing, written):
    body = report(**{missing: None})
    titles = {"training": "Training", "sampling": "Chains under", "modes": "### Modes",
              "bias": "### Bias"}  # fmt: skip
    assert titles.get(missing, "nothing") not in to_markdown(body)
    written(body, width=200)
    render_html(body)


@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [None], [{}], {"curve": [3, {}]},
                                  {"shares": [1], "weights": []}, {"shares": 3, "weights": "a"},
                                  {"shares": [None, "x"], "weights": [{}, []]},
                                  {"acceptance": [], "rhat": "a", "seconds": {}}])  # fmt: skip
def test_malformed_sections_are_survived(junk, written):
    body = Report("mh-proposal", {}, dict.fromkeys(sections(), junk))
    to_markdown(body)
    written(body, width=200)
    render_html(body)


def test_other_commands_have_no_such_tables():
    assert "frozen proposal" not in to_markdown(Report("prune", {}, sections()))
