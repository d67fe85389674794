"""`vae-eval` against closed forms, and the refined posteriors that it reads again."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bnnkit
from bnnkit.errors import DataError, UsageError
from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.vae_digest import eval_tables
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.run.vae_eval import vae_eval
from bnnkit.run.vae_refine import vae_refine
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_eval import VaeEvalConfig
from bnnkit.spec.vae_refine import RefineConfig, VaeRefineConfig
from bnnkit.zoo import ZOO

QUICK = VaeEvalConfig(limit=30, elbo_samples=50, samples=(20, 200), device="cpu", threads=1)
REFINE = VaeRefineConfig(
    limit=30, gap=0, importance=(20, 200), formats=(), device="cpu", threads=1
)


def value(node):
    return node["value"]


@pytest.fixture(scope="module")
def refined(example_vae, tmp_path_factory):
    """A run of vae-refine on digits."""
    out = tmp_path_factory.mktemp("refined") / "run"
    return vae_refine(str(example_vae), "digits", REFINE, out=out).to_dict(), out


def changed(example_vae, path, key):
    """Write the same net with one weight moved."""
    state = torch.load(example_vae)
    state[key] = state[key] + 0.05
    torch.save(state, path)
    return str(path)


def test_figures_meet_the_closed_form(linear, tmp_path):
    config = replace(QUICK, samples=(50, 2000), elbo_samples=400, ais=5, ais_temperatures=40)
    body = vae_eval(linear.spec, linear.data, config, out=tmp_path / "run").to_dict()
    bench = linear.bench()
    x = bench.test(30)
    exact = linear.evidence(bench, x)
    last = body["importance"][-1]
    assert value(last["nll"]) == pytest.approx(-float(exact.mean()), abs=0.05)
    assert value(body["slim"]["nll"]) == value(last["nll"])
    mean, log_sigma = (t.detach().double() for t in bench.model.encode(x))
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, log_sigma.exp()), 1)
    posterior = linear.posterior(bench, x)
    full = torch.distributions.MultivariateNormal(mean, torch.diag_embed((2 * log_sigma).exp()))
    gap = torch.distributions.kl_divergence(full, posterior)
    bound = body["bound"]
    error = 5 * bound["error_of_draws"]
    assert value(bound["elbo"]) == pytest.approx(float((exact - gap).mean()), abs=error)
    standard = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1
    )
    kl = torch.distributions.kl_divergence(normal, standard)
    assert value(bound["kl"]) == pytest.approx(float(kl.mean()), rel=1e-5)
    assert value(bound["log_likelihood"]) - value(bound["kl"]) == pytest.approx(
        value(bound["elbo"]), abs=1e-4
    )
    ais = body["ais"]
    assert value(ais["nll"]) == pytest.approx(
        -float(exact[:5].mean()), abs=5 * ais["error_of_chains"] + 0.02
    )
    assert ais["nll"]["n"] == 5
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## vae-refine and vae-eval")
    for name in ("posterior", "bound", "ais"):
        assert all(f"`{key}`" in told for key in body[name])


def test_likelihoods_meet_quadrature(example_vae, tmp_path, quadrature):
    body = vae_eval(str(example_vae), "digits", QUICK, out=tmp_path / "run").to_dict()
    bench = set_up_vae(VaeSpec(ModelSpec(str(example_vae))), DataSpec("digits"))
    exact = float(quadrature(bench, bench.test(30)).mean())
    first, last = body["importance"]
    assert value(last["nll"]) == pytest.approx(-exact, abs=5 * last["error_of_draws"] + 0.01)
    assert -value(body["bound"]["elbo"]) > -exact
    assert "ess_median" not in first
    assert 1 <= last["ess_least"] <= last["ess_median"] <= 200


def test_refined_posteriors_are_read_again(refined, example_vae, tmp_path):
    refinement, run = refined
    body = vae_eval(str(example_vae), "digits", QUICK, refined=run, out=tmp_path / "run").to_dict()
    assert body["posterior"] == {"kind": "refined", "family": None, "run": str(run)}
    gain = value(body["bound"]["elbo"]) - value(body["bound"]["encoder_elbo"])
    assert value(body["bound"]["encoder_gain"]) == pytest.approx(gain)
    assert gain > 0
    after = load_file(run / "refined.safetensors")["elbo_after"]
    assert value(body["bound"]["elbo"]) == pytest.approx(float(after.mean()), abs=0.1)
    # the same seed, samples and posteriors
    rows = [row for row in refinement["importance"] if row["posterior"] == "refined"]
    for row, again in zip(rows, body["importance"], strict=True):
        assert value(row["nll"]) == pytest.approx(value(again["nll"]), abs=1e-5)
    fewer = replace(QUICK, limit=10)
    vae_eval(str(example_vae), "digits", fewer, refined=run, out=tmp_path / "few")


@pytest.mark.parametrize("family", ["full", "mn:3x1", "flow"])
def test_every_family_is_read_again(family, example_vae, tmp_path):
    adam = "adam" if family == "flow" else "natural"
    refine = RefineConfig(family=family, optimiser=adam, steps=5)
    config = replace(REFINE, refine=refine, limit=12)
    first = vae_refine(str(example_vae), "digits", config, out=tmp_path / "refined").to_dict()
    body = vae_eval(
        str(example_vae), "digits", replace(QUICK, limit=12),
        refined=tmp_path / "refined" / "refined.safetensors", out=tmp_path / "run",
    ).to_dict()  # fmt: skip
    assert value(body["slim"]["nll"]) == pytest.approx(value(first["slim"]["nll"]), abs=1e-4)


@pytest.mark.parametrize("key", ["fc1.weight", "fc22.bias", "fc3.weight", "fc4.bias"])
def test_posteriors_of_other_weights_are_refused(key, refined, example_vae, tmp_path):
    other = changed(example_vae, tmp_path / "other.pth", key)
    half = "an encoder" if key in ("fc1.weight", "fc22.bias") else "a decoder"
    with pytest.raises(UsageError, match=rf"{half}.* that answers otherwise") as refusal:
        vae_eval(other, "digits", QUICK, refined=refined[1], out=tmp_path / "run")
    assert refusal.value.code == 2
    assert not (tmp_path / "run").exists()


def test_posteriors_of_other_data_or_fewer_are_refused(refined, example_vae, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=r"data '.*' and here"):
        vae_eval(
            str(example_vae), DataSpec("digits", classes=("0", "1")), QUICK,
            refined=refined[1], out=out,
        )  # fmt: skip
    with pytest.raises(UsageError, match="posteriors of 30 data, and 31 are judged"):
        vae_eval(str(example_vae), "digits", replace(QUICK, limit=31), refined=refined[1], out=out)
    cut = VaeSpec(ModelSpec(str(example_vae)), binarise="threshold")
    with pytest.raises(UsageError, match="binarise 'bernoulli' and here 'threshold'"):
        vae_eval(cut, "digits", QUICK, refined=refined[1], out=out)


def test_what_holds_no_posteriors_is_refused(refined, example_vae, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = refined[1] / "refined.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    stated = json.loads(metadata["bnnkit.refined"])
    save_file({k: v for k, v in tensors.items() if k != "q.mean"}, tmp_path / "a", metadata)
    save_file(tensors, tmp_path / "b", {"bnnkit.refined": "[1]"})
    family = json.dumps({**stated, "family": "mn:9x9"})
    save_file(tensors, tmp_path / "c", {"bnnkit.refined": family})
    (tmp_path / "d").mkdir()
    for name, word in (("a", "without them"), ("b", "without them"), ("c", "without them"),
                       ("d", "no such file"), ("e", "no such file")):  # fmt: skip
        with pytest.raises(UsageError, match=word):
            vae_eval(str(example_vae), "digits", QUICK, refined=tmp_path / name)


def test_gates(example_vae, tmp_path):
    for limit, verdict in ((1.0, "fail"), (1000.0, "pass")):
        gates = GateOptions(max_nll=limit)
        body = vae_eval(
            str(example_vae), "digits", QUICK, out=tmp_path / verdict, gates=gates
        ).to_dict()
        assert [row["verdict"] for row in body["gates"]] == [verdict]
    with pytest.raises(UsageError, match="min-elbo-gain"):
        vae_eval(str(example_vae), "digits", QUICK, gates=GateOptions(min_elbo_gain=1.0))


def test_pictures_page_and_force(example_vae, tmp_path):
    out = tmp_path / "run"
    body = vae_eval(str(example_vae), "digits", replace(QUICK, limit=4), out=out).to_dict()
    names = {"samples.png", "reconstructions.png", "traversals.png", "report.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert len(body["grids"]) == 3
    for grid, file in zip(
        body["grids"], ("samples", "reconstructions", "traversals"), strict=True
    ):
        assert base64.b64decode(grid["png"]) == (out / f"{file}.png").read_bytes()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert all(table.title in page for table in eval_tables(body))
    with pytest.raises(UsageError, match="--force"):
        vae_eval(str(example_vae), "digits", QUICK, out=out)
    plain = replace(QUICK, limit=4, latents_shown=0)
    vae_eval(str(example_vae), "digits", plain, out=out, force=True)
    assert not (out / "traversals.png").exists()


def test_four_images_stand_above_their_reconstructions(example_vae, tmp_path):
    from PIL import Image

    out = tmp_path / "run"
    vae_eval(str(example_vae), "digits", replace(QUICK, limit=4), out=out)
    with Image.open(out / "reconstructions.png") as picture:
        assert picture.size == (10 * (8 + 2) + 2, 2 * (8 + 2) + 2)
        right = picture.convert("L").crop((4 * 10 + 2, 0, *picture.size))
    assert right.getextrema() == (0, 0)


def test_names_are_escaped(example_vae, tmp_path):
    body = vae_eval(str(example_vae), "digits", replace(QUICK, limit=4), out=tmp_path / "r")
    sections = {**body.sections, "model": {**body.sections["model"], "file": "<script>x"}}
    sections["grids"] = [{**sections["grids"][0], "name": "<b>bold"}]
    page = render_html(Report("vae-eval", body.provenance, sections))
    assert "<script>x" not in page
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_another_prior_has_no_samples(linear, tmp_path):
    spec = replace(linear.spec, prior=f"{linear.folder / 'linear.py'}:log_prior")
    body = vae_eval(spec, linear.data, QUICK, out=tmp_path / "run").to_dict()
    assert [grid["name"][:4] for grid in body["grids"]] == ["Data", "Trav"]
    assert body["bound"]["kl_closed"] is False
    assert not (tmp_path / "run" / "samples.png").exists()


def test_an_unused_latent_is_seen(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO["vae-mnist"](latent=4, hidden=16, in_features=64)
    with torch.no_grad():
        net.fc21.weight[:3] *= 4
        for layer in (net.fc21, net.fc22):
            layer.weight[3], layer.bias[3] = 0, 0
        net.fc3.weight[:, 3] = 0
    torch.save(net.state_dict(), tmp_path / "vae.pth")
    latents = vae_eval(str(tmp_path / "vae.pth"), "digits", QUICK, out=tmp_path / "run").to_dict()[
        "latents"
    ]
    assert latents["active"] == 3
    assert latents["activity"][3] == latents["kl"][3] == 0


def test_grey_data_are_refused(example_vae, tmp_path):
    grey = VaeSpec(ModelSpec(str(example_vae)), binarise="none")
    with pytest.raises(DataError, match="--allow-grey"):
        vae_eval(grey, "digits", QUICK, out=tmp_path / "run")
    report = vae_eval(replace(grey, allow_grey=True), "digits", QUICK, out=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "objective (no bound)" in page.lower()
    assert "evidence bound" not in page.lower()
    assert report.sections["model"]["is_bound"] is False


def test_the_library_call(example_vae):
    assert bnnkit.vae_eval is vae_eval
