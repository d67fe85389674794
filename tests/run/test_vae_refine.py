"""`vae-refine` against closed forms and quadrature, and what it leaves on the disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bnnkit
from bnnkit.errors import ArtefactError, DataError, UsageError
from bnnkit.io.export import Written
from bnnkit.methods.vae.refine import refine
from bnnkit.run.reporting.vae_digest import refine_tables
from bnnkit.run.vae import onnx
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.run.vae_refine import vae_refine
from bnnkit.run.verify import Check
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_refine import RefineConfig, VaeRefineConfig

DIGITS = DataSpec("digits")
QUICK = VaeRefineConfig(limit=30, gap=0, importance=(20, 200), formats=(), device="cpu", threads=1)


@pytest.fixture(scope="module")
def run(example_vae, tmp_path_factory):
    """The report and folder of a run on digits, with everything but ONNX."""
    out = tmp_path_factory.mktemp("refine") / "run"
    config = replace(QUICK, gap=8, gap_samples=500, importance=(50, 500), ood=("digits",))
    report = vae_refine(VaeSpec(ModelSpec(str(example_vae))), DIGITS, config, out=out)
    return report.to_dict(), out


@pytest.fixture(scope="module")
def bench(example_vae):
    return set_up_vae(VaeSpec(ModelSpec(str(example_vae))), DIGITS)


def value(node):
    return node["value"]


def test_no_bound_is_below_the_encoders(run):
    body, out = run
    assert value(body["slim"]["elbo"]) > value(body["original"]["elbo"])
    assert value(body["paired"]["elbo_gain"]) == pytest.approx(
        value(body["slim"]["elbo"]) - value(body["original"]["elbo"]), abs=1e-5
    )
    found = load_file(out / "refined.safetensors")
    kept = ~found["improved"].bool()
    assert torch.equal(found["elbo_after"][kept], found["elbo_before"][kept])
    assert body["refinement"]["improved"] == int((~kept).sum()) > 20


def test_figures_are_those_of_the_refinement_itself(run, bench):
    body, out = run
    x = bench.test(30)
    direct = refine(bench.model, x, RefineConfig(), generator=torch.Generator().manual_seed(0))
    figure = body["slim"]["elbo"]
    after = direct.elbo_after.double()
    assert value(figure) == pytest.approx(float(after.mean()), abs=1e-6)
    half = 2.045 * float(after.std()) / 30**0.5  # t of 29 degrees of freedom
    assert figure["high"] - value(figure) == pytest.approx(half, rel=1e-3)
    assert (figure["n"], figure["unit"]) == (30, "nats")
    found = load_file(out / "refined.safetensors")
    assert torch.allclose(found["elbo_after"], direct.elbo_after)
    assert torch.allclose(found["q.mean"], direct.posterior.mean)
    gain = (direct.elbo_after - direct.elbo_before).double()
    assert body["refinement"]["gain_least"] == pytest.approx(float(gain.min()))
    assert len(body["refinement"]["curve"]) == 21


def test_likelihoods_meet_quadrature(run, bench, quadrature):
    body, _ = run
    exact = quadrature(bench, bench.test(30))
    for row in body["importance"]:
        if row["samples"] == 500:
            error = row["error_of_draws"]
            assert value(row["nll"]) == pytest.approx(-float(exact.mean()), abs=5 * error + 5e-3)
    assert value(body["slim"]["nll"]) == value(body["importance"][-1]["nll"])
    bounds = body["gap"]["bounds"]
    first = float(exact[:8].mean())
    assert value(bounds["log_p"]) == pytest.approx(first, abs=0.02)
    rising = [value(bounds[name]) for name in ("encoder", "diagonal", "full")]
    assert rising == sorted(rising)
    assert rising[-1] <= first + 0.03
    assert sum(value(part) for part in body["gap"]["parts"].values()) == pytest.approx(
        value(bounds["log_p"]) - value(bounds["encoder"]), abs=1e-5
    )


def test_the_same_domain_is_not_told_apart(run):
    body, _ = run
    (row,) = body["ood"]
    assert row["n"] == 359
    scores = {score["score"]: score["auroc"] for score in row["scores"]}
    assert set(scores) == {
        "likelihood regret", "minus the encoder's bound", "minus the refined bound"
    }  # fmt: skip
    for found in scores.values():
        assert found["low"] < 0.5 < found["high"]


def test_the_directory_and_the_page(run):
    body, out = run
    names = {"refined.safetensors", "reconstructions.png", "report.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == body
    page = (out / "report.html").read_text(encoding="utf-8")
    for table in refine_tables(body):
        assert table.title in page
    assert page.count("data:image/png;base64,") == 1


def test_every_figure_is_documented(run):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## vae-refine and vae-eval")
    body, _ = run
    for name in ("refinement", "gap", "latents", "model"):
        for key in set(body[name]) - {"file", "arch", "arch_args", "notes"}:
            assert f"`{key}`" in told, f"{name}.{key}"
    for name in ("importance", "importance_curve", "ood"):
        for key in {key for row in body[name] for key in row}:
            assert key in told.partition(f"| `{name}` |")[2].partition("\n")[0], f"{name}.{key}"


def test_a_full_covariance_is_the_posterior_of_a_linear_model(linear, tmp_path):
    config = replace(QUICK, refine=RefineConfig(family="full"), importance=(5, 2000), limit=20)
    body = vae_refine(linear.spec, linear.data, config, out=tmp_path / "run").to_dict()
    bench = linear.bench()
    x = bench.test(20)
    exact = linear.evidence(bench, x)
    assert value(body["slim"]["nll"]) == pytest.approx(-float(exact.mean()), abs=0.01)
    assert value(body["original"]["elbo"]) < float(exact.mean()) - 1
    found = load_file(tmp_path / "run" / "refined.safetensors")
    refined = found["improved"].bool()
    assert int(refined.sum()) >= 18
    posterior = linear.posterior(bench, x)
    torch.testing.assert_close(
        found["q.mean"][refined], posterior.mean.float()[refined], atol=5e-3, rtol=0
    )
    # terms log p(x | z) - KL vary from draw to draw by about a nat
    difference = (found["elbo_after"] - exact)[refined].mean()
    assert abs(float(difference)) < 0.35


def test_data_of_another_domain_are_told_apart(linear, tmp_path):
    config = replace(QUICK, ood=(str(linear.folder / "white.npz"),), ood_limit=10)
    body = vae_refine(linear.spec, linear.data, config, out=tmp_path / "run").to_dict()
    (row,) = body["ood"]
    assert (row["n"], row["name"]) == (10, str(linear.folder / "white.npz"))
    scores = {score["score"]: score["auroc"] for score in row["scores"]}
    assert scores["minus the encoder's bound"]["value"] == 1
    assert scores["minus the refined bound"]["value"] == 1
    assert value(row["elbo"]) < value(body["original"]["elbo"])
    assert value(row["inside_regret"]) == value(body["paired"]["elbo_gain"])


@pytest.mark.parametrize(
    "refinement",
    [
        RefineConfig(optimiser="sgd", lr=1e30),
        RefineConfig(optimiser="adam", lr=100.0),
        RefineConfig(lr=100.0),
        RefineConfig(steps=0),
    ],
    ids=["sgd 1e30", "adam 100", "natural 100", "no step"],
)
def test_no_rate_makes_it_worse(refinement, example_vae, tmp_path):
    config = replace(QUICK, refine=refinement, limit=12)
    body = vae_refine(str(example_vae), "digits", config, out=tmp_path / "run").to_dict()
    assert value(body["paired"]["elbo_gain"]) >= 0
    assert body["refinement"]["gain_least"] > -0.3  # the error of its draws
    if refinement.lr == 1e30:
        assert body["refinement"]["diverged"] == 12
        assert value(body["paired"]["elbo_gain"]) == 0
    if not refinement.steps:
        assert body["refinement"]["improved"] == 0


def test_one_datum_is_enough(example_vae, tmp_path):
    config = replace(QUICK, limit=1, gap=5, gap_samples=50)
    body = vae_refine(str(example_vae), "digits", config, out=tmp_path / "run").to_dict()
    assert body["gap"]["n"] == 1
    assert body["latents"]["active"] is None
    assert "split" not in body["latents"]
    assert any(table.title == "Latents" for table in refine_tables(body))


def test_a_limit_above_the_test_set_takes_all(example_vae, tmp_path):
    config = replace(QUICK, limit=10**6, importance=(5,))
    body = vae_refine(str(example_vae), "digits", config, out=tmp_path / "run").to_dict()
    assert body["refinement"]["n"] == body["data"]["n_test"] == 359


def test_grey_data_need_a_word_and_nothing_is_a_bound_then(example_vae, tmp_path):
    grey = VaeSpec(ModelSpec(str(example_vae)), binarise="none")
    with pytest.raises(DataError, match="--allow-grey"):
        vae_refine(grey, "digits", QUICK, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config = replace(QUICK, ood=("digits",), ood_limit=20, gap=4, gap_samples=20)
    report = vae_refine(replace(grey, allow_grey=True), "digits", config, out=tmp_path / "run")
    text = "\n".join(
        cell
        for table in refine_tables(report.to_dict())
        for cell in (table.title, *table.columns, *sum(table.rows, ()))
    )
    assert "bound" not in text
    assert "log p(x)" not in text
    assert "objective" in text


def test_gates_are_judged_in_the_report(example_vae, tmp_path):
    gates = GateOptions(min_elbo_gain=-1.0, max_nll=1.0)
    body = vae_refine(
        str(example_vae), "digits", QUICK, out=tmp_path / "run", gates=gates
    ).to_dict()
    assert [(row["gate"], row["verdict"]) for row in body["gates"]] == [
        ("max-nll", "fail"), ("min-elbo-gain", "pass"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="max-export-diff"):
        vae_refine(str(example_vae), "digits", QUICK, gates=GateOptions(max_export_diff=1.0))


def test_an_earlier_run_is_replaced_on_demand_and_stays_where_one_fails(
    example_vae, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    few = replace(QUICK, limit=5, importance=(5,))
    vae_refine(str(example_vae), "digits", few, out=out)
    before = (out / "report.json").read_bytes()
    with pytest.raises(UsageError, match="--force"):
        vae_refine(str(example_vae), "digits", few, out=out)

    def broken(*_args, **_keywords):
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr("bnnkit.run.vae_refine.write_refined", broken)
        with pytest.raises(OSError, match="no room"):
            vae_refine(str(example_vae), "digits", few, out=out, force=True)
    assert (out / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    again = vae_refine(str(example_vae), "digits", replace(few, limit=4), out=out, force=True)
    assert again.to_dict()["refinement"]["n"] == 4


def test_a_form_that_disagrees_delivers_nothing(example_vae, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "write_onnx", lambda _m, _x, path, **_: Written(path, 0))
    monkeypatch.setattr(
        onnx, "_compared", lambda path, *_: Check(path.stem, 0.5, 1e-4, "relative", 3, False)
    )
    config = replace(QUICK, refine=RefineConfig(optimiser="adam"), formats=("onnx",))
    with pytest.raises(ArtefactError) as refused:
        vae_refine(str(example_vae), "digits", config, out=tmp_path / "run")
    assert refused.value.code == 4
    assert not list(tmp_path.iterdir())


def test_the_library_call(example_vae):
    assert bnnkit.vae_refine is vae_refine
