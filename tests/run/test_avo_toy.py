"""`avo-toy` as one call: the run directory, its figures, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bnnkit
from bnnkit.errors import UsageError
from bnnkit.io.rundir import is_run_directory
from bnnkit.run.reporting.html import render_html
from bnnkit.spec.avo import AvoToyConfig

QUICK = AvoToyConfig(
    methods=("elbo", "avo", "planar"), steps=20, batch_size=32, transitions=3, hidden=8,
    samples=2000,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "toy"
    return out, bnnkit.avo_toy("D", QUICK, out=out)


def test_the_directory(run):
    out, report = run
    assert {p.name for p in out.iterdir()} == {"densities.png", "report.html", "report.json"}
    assert is_run_directory(out)
    assert (out / "densities.png").read_bytes().startswith(b"\x89PNG")
    body = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert body["command"] == "avo-toy"
    assert body["truth"]["modes"] == 4
    assert [row["method"] for row in body["approximations"]] == ["elbo", "avo", "planar"]
    assert [row["method"] for row in body["robustness"]] == ["elbo", "avo"]
    for row in body["approximations"]:
        assert row["gap"] == pytest.approx(body["truth"]["log_z"] - row["bound"]["value"])
        assert sum(row["shares"]) == pytest.approx(1)
    assert len(report.sections["verdict"]) == 2


def test_every_figure_is_documented(run):
    told = (Path(__file__).parents[2] / "docs" / "avo.md").read_text(encoding="utf-8")
    for name in ("truth", "approximations", "robustness"):
        assert f"`{name}`" in told
    for key in (*run[1].sections["truth"], *run[1].sections["approximations"][0]):
        assert f"`{key}`" in told, key


def test_the_page_shows_densities_and_tables(run):
    page = render_html(run[1])
    for words in ("Approximations", "Share of draws in each mode", "Trained with biased noise"):
        assert words in page
    assert "data:image/png;base64," in page


def test_a_finished_run_is_replaced_only_by_force(run):
    with pytest.raises(UsageError, match="it is a finished run"):
        bnnkit.avo_toy("d", QUICK, out=run[0])


def test_without_bias_and_modes(tmp_path):
    config = AvoToyConfig(methods=("nsf",), steps=2, samples=200)
    report = bnnkit.avo_toy("c", config, out=tmp_path / "run")
    assert report.sections["robustness"] == []
    assert report.sections["verdict"] == []
    assert "Share of draws" not in render_html(report)


def test_an_energy_that_is_none_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match="'x'"):
        bnnkit.avo_toy("x", QUICK, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
