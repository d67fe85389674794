"""The charts of autoencoders: what is drawn, on which scale, from whatever a file holds."""

import re

import pytest

from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.vae_plots import eval_panels, refine_panels
from bnnkit.spec.report import Report

CURVE = [
    {"posterior": kind, "samples": samples, "log_p": log_p}
    for kind, values in (("encoder", (-99.0, -97.0, -95.0)), ("refined", (-95.5, -94.0, -93.5)))
    for samples, log_p in zip((1, 10, 100), values, strict=True)
]


def refinement(**changes):
    body = {"importance_curve": CURVE, "refinement": {"curve": [-99.0, -96.5, -95.5]}}
    return Report("vae-refine", {}, {**body, **changes})


def path_lengths(svg):
    """Return the number of points of each drawn line."""
    lines = re.findall(r'<path d="(M [^"]*)" clip-path', svg)
    return [len(re.findall(r"[ML] ", line)) for line in lines]


def test_a_refinement_has_both_charts():
    importance, steps = refine_panels(refinement().to_dict())
    assert importance["title"] == "Importance-weighted bound, nats"
    assert path_lengths(importance["svg"])[-2:] == [3, 3]
    for word in ("encoder", "refined", ">1<", ">10<", ">100<", "importance samples a datum"):
        assert word in importance["svg"]
    assert steps["title"] == "Bound while refining, nats"
    assert path_lengths(steps["svg"])[-1] == 3


def test_an_evaluation_has_one_line_without_a_legend():
    body = Report("vae-eval", {}, {"importance_curve": CURVE[:3]}).to_dict()
    (panel,) = eval_panels(body)
    assert path_lengths(panel["svg"])[-1] == 3
    assert "refined" not in panel["svg"]


def test_a_trained_posterior_is_drawn():
    curve = [{**row, "posterior": "trained"} for row in CURVE[:3]]
    (panel,) = eval_panels(Report("vae-eval", {}, {"importance_curve": curve}).to_dict())
    assert path_lengths(panel["svg"])[-1] == 3


def test_the_page_shows_them():
    page = render_html(refinement())
    assert page.count("<svg") == 2
    assert page.count("Curves</h2>") == 1
    assert "#040404" not in page  # colours are those of the page


def test_nothing_is_called_a_bound_of_grey_data():
    body = refinement(model={"is_bound": False}).to_dict()
    titles = [panel["title"] for panel in refine_panels(body)]
    assert titles == ["Importance-weighted objective, nats", "Objective while refining, nats"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"importance_curve": CURVE[:1], "refinement": {"curve": [-1.0]}},
        {"importance_curve": [{"posterior": "<b>", "samples": 1, "log_p": 2.0}] * 3},
        {"importance_curve": [{"posterior": "encoder", "samples": "x"}] * 3, "refinement": 3},
        {"importance_curve": [{"posterior": "encoder", "samples": 0, "log_p": 1.0}] * 3},
        {"refinement": {"curve": [None, "x", float("nan")]}},
    ],
)
def test_half_a_report_draws_nothing(body):
    assert refine_panels(body) == []
