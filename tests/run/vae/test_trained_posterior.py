"""The posterior that `vae-fit` trained is the one judged, and is refused where it is broken."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bnnkit.__main__ import main
from bnnkit.errors import FileRefusedError, UsageError
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.run.vae.trained import refined_from, trained_posterior
from bnnkit.run.vae_eval import vae_eval
from bnnkit.run.vae_fit import vae_fit
from bnnkit.run.vae_refine import vae_refine
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_eval import VaeEvalConfig
from bnnkit.spec.vae_fit import VaeFitConfig
from bnnkit.spec.vae_refine import RefineConfig, VaeRefineConfig

ARGS = {"latent": 3, "hidden": 16, "in_features": 64}
SPEC = ModelSpec(arch="bnnkit:vae-mnist", arch_args=ARGS, input_shape=(1, 8, 8))
DATA = DataSpec("digits", limit=200)
FIT = VaeFitConfig(
    epochs=6, batch_size=20, lr=5e-3, threads=1, device="cpu", nll_samples=50, nll_limit=200
)
EVAL = VaeEvalConfig(limit=200, elbo_samples=40, samples=(5, 50), device="cpu", threads=1)
REFINE = VaeRefineConfig(
    limit=20, gap=0, importance=(5, 50), formats=(), device="cpu", threads=1,
    refine=RefineConfig(family="full", steps=8),
)  # fmt: skip
FAMILIES = ["full", "mn:3x1", "iaf:2", "planar:3", "hvi:2"]
BIASED = "head.head.lower.bias"


def value(node):
    return node["value"] if isinstance(node, dict) else node.value


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function: the run directory of a family, and its report's sections."""
    folder, found = tmp_path_factory.mktemp("trained"), {}

    def of(family, **options):
        key = (family, *options)
        if key not in found:
            if family.startswith("iaf"):
                pytest.importorskip("zuko")
            out = folder / str(len(found))
            config = replace(FIT, posterior=family, **options)
            found[key] = out, vae_fit(SPEC, DATA, config, out=out).sections
        return found[key]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trained_posterior_is_judged(trained, family, tmp_path, quadrature):
    out, fit = trained(family)
    body = vae_eval(str(out), DATA, EVAL, out=tmp_path / "run").to_dict()
    assert body["posterior"] == {"kind": "trained", "family": family, "run": None}
    bound, error = body["bound"], body["bound"]["error_of_draws"]
    # vae-fit took one draw of a datum, where these are the means of forty
    near = 4 * error * EVAL.elbo_samples**0.5
    assert value(bound["elbo"]) == pytest.approx(value(fit["bounds"]["test"]["elbo"]), abs=near)
    assert value(bound["kl"]) == pytest.approx(
        value(fit["bounds"]["test"]["kl"]), abs=1e-3 if bound["kl_closed"] else 2 * near
    )
    last = body["importance"][-1]
    assert value(last["nll"]) <= -value(bound["elbo"]) + 4 * error
    assert value(last["nll"]) == pytest.approx(
        value(fit["likelihood"]["nll"]), abs=6 * last["error_of_draws"]
    )
    bench = set_up_vae(VaeSpec(ModelSpec(str(out))), DATA)
    exact = float(quadrature(bench, bench.test(200)).mean())
    assert value(last["nll"]) == pytest.approx(-exact, abs=5 * last["error_of_draws"] + 0.02)
    assert value(bound["elbo"]) < exact + 4 * error
    assert ("split" in body["latents"]) == (family in ("full", "mn:3x1"))
    assert len(body["latents"]["kl"]) == 3
    assert [grid["name"][:4] for grid in body["grids"]] == ["Samp", "Data", "Trav"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"Posterior: trained, {family}." in page


def test_the_encoders_own_bound_stands_beside_it(trained, tmp_path):
    out, _ = trained("full")
    body = vae_eval(str(out), DATA, EVAL, out=tmp_path / "run").to_dict()
    file = VaeSpec(ModelSpec(str(out / "model.safetensors"), input_shape=(1, 8, 8)))
    plain = vae_eval(file, DATA, EVAL, out=tmp_path / "plain").to_dict()
    assert plain["posterior"] == {"kind": "encoder", "family": None, "run": None}
    assert "encoder_elbo" not in plain["bound"]
    encoder = value(plain["bound"]["elbo"])
    assert value(body["bound"]["encoder_elbo"]) == pytest.approx(encoder, abs=1e-6)
    assert value(body["bound"]["encoder_gain"]) == pytest.approx(
        value(body["bound"]["elbo"]) - encoder, abs=1e-5
    )
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## vae-refine and vae-eval")
    for name in ("posterior", "bound"):
        assert all(f"`{key}`" in told for key in body[name])


def test_weights_of_the_decoder_are_judged_at_their_means(trained, tmp_path):
    out, fit = trained("diag", full_vb=True)
    body = vae_eval(str(out), DATA, EVAL, out=tmp_path / "run").to_dict()
    assert body["posterior"]["kind"] == "encoder"
    assert any("at their means" in note for note in body["model"]["notes"])
    near = 4 * body["bound"]["error_of_draws"] * EVAL.elbo_samples**0.5
    assert value(body["bound"]["elbo"]) == pytest.approx(
        value(fit["bounds"]["test"]["elbo"]), abs=near
    )


EXACT = """
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(0.1 * torch.randn(3, 12, generator=source))
        precision = torch.eye(3) + self.weight @ self.weight.T / 0.01
        self.read = nn.Parameter(torch.linalg.solve(precision, self.weight / 0.01).T.detach())
        factor = torch.linalg.cholesky(torch.linalg.inv(precision))
        self.log_variance = nn.Parameter(2 * factor.diagonal().log().detach())

    def encode(self, x):
        h = (x.flatten(1) - 0.5) @ self.read
        return h, self.log_variance + 1e-4 * torch.tanh(h)

    def decode(self, z):
        return z @ self.weight + 0.5


def build():
    return Linear()
"""


@pytest.fixture(scope="module")
def exact(linear, tmp_path_factory):
    """A run whose full posterior is that of a linear-Gaussian model, and its specification."""
    folder = tmp_path_factory.mktemp("exact")
    (folder / "exact.py").write_text(EXACT, encoding="utf-8")
    spec = replace(linear.spec, model=ModelSpec(arch=f"{folder / 'exact.py'}:build"))
    config = replace(FIT, posterior="full", epochs=0, nll_samples=0)
    vae_fit(spec, linear.data, config, out=folder / "run")
    state = load_file(folder / "run" / "posterior.safetensors")
    bench = set_up_vae(spec, linear.data)
    weight = bench.auto.module.weight.detach().double()
    precision = torch.eye(3, dtype=torch.float64) + weight @ weight.T / 0.01
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    unit = factor / factor.diagonal().unsqueeze(1)  # its strictly lower part, row by row
    state[BIASED] = unit[torch.tril_indices(3, 3, -1).unbind()].float()
    save_file(state, folder / "run" / "posterior.safetensors")
    return replace(spec, model=ModelSpec(str(folder / "run")))


def evidence(bench, x):
    weight = bench.auto.module.weight.detach().double()
    spread = weight.T @ weight + 0.01 * torch.eye(12, dtype=torch.float64)
    half = torch.full((12,), 0.5, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(half, spread).log_prob(x.double())


def test_the_exact_posterior_gives_the_evidence(exact, linear, tmp_path):
    config = replace(EVAL, limit=30, elbo_samples=400)
    body = vae_eval(exact, linear.data, config, out=tmp_path / "run").to_dict()
    bench = set_up_vae(exact, linear.data)
    log_p = float(evidence(bench, bench.test(30)).mean())
    for row in body["importance"]:  # one draw would be enough
        assert value(row["nll"]) == pytest.approx(-log_p, abs=1e-3)
        assert row["error_of_draws"] < 1e-4
    assert body["importance"][-1]["ess_least"] > 49.9
    bound = body["bound"]
    assert value(bound["elbo"]) == pytest.approx(log_p, abs=4 * bound["error_of_draws"])
    assert value(bound["encoder_gain"]) > 0.3


@pytest.mark.parametrize("family", ["diag", "full", "mn:3x1"])
def test_refinement_of_the_exact_posterior_keeps_it(exact, linear, tmp_path, family):
    config = replace(REFINE, refine=RefineConfig(family=family, steps=3), gap=5, gap_samples=50)
    body = vae_refine(exact, linear.data, config, out=tmp_path / "run").to_dict()
    bench = set_up_vae(exact, linear.data)
    log_p = evidence(bench, bench.test(20))
    assert body["refinement"]["start"] == "trained"
    assert body["refinement"]["gain_least"] >= 0
    assert value(body["original"]["nll"]) == pytest.approx(-float(log_p.mean()), abs=1e-3)
    assert value(body["slim"]["nll"]) == pytest.approx(-float(log_p.mean()), abs=0.01)
    assert value(body["gap"]["trained"]) == pytest.approx(float(log_p[:5].mean()), abs=0.4)


@pytest.mark.parametrize(
    ("family", "start"), [("full", "trained"), ("mn:3x1", "trained"), ("hvi:2", "encoder")]
)
def test_refinement_starts_from_a_gaussian_that_was_trained(trained, tmp_path, family, start):
    out, _ = trained(family)
    config = replace(REFINE, gap=6, gap_samples=20, ood=("digits",), ood_limit=10)
    body = vae_refine(str(out), DATA, config, out=tmp_path / "run").to_dict()
    assert body["refinement"]["start"] == start
    assert body["refinement"]["gain_least"] >= 0
    assert {row["posterior"] for row in body["importance"]} == {start, "refined"}
    owner = {"encoder": "encoder's", "trained": "trained posterior's"}[start]
    assert f"minus the {owner} bound" in [row["score"] for row in body["ood"][0]["scores"]]
    found = vae_eval(
        str(out), DATA, replace(EVAL, limit=20, elbo_samples=400), out=tmp_path / "eval"
    ).to_dict()["bound"]
    before = found["elbo"] if start == "trained" else found["encoder_elbo"]
    assert value(body["original"]["elbo"]) == pytest.approx(value(before), abs=0.6)
    six = vae_eval(
        str(out), DATA, replace(EVAL, limit=6, elbo_samples=400), out=tmp_path / "six"
    ).to_dict()["bound"]
    assert value(body["gap"]["trained"]) == pytest.approx(value(six["elbo"]), abs=0.4)
    (note,) = (n for n in body["model"]["notes"] if n.startswith("Refinement starts"))
    assert family in note
    again = vae_eval(
        str(out), DATA, replace(EVAL, limit=20), refined=tmp_path / "run", out=tmp_path / "again"
    ).to_dict()
    assert value(again["slim"]["nll"]) == pytest.approx(value(body["slim"]["nll"]), abs=1e-4)
    other, _ = trained("mn:3x1" if family == "full" else "full")
    with pytest.raises(UsageError, match="an encoder that answers otherwise"):
        vae_eval(str(other), DATA, replace(EVAL, limit=20), refined=tmp_path / "run")


@pytest.mark.slow
def test_the_exported_refinement_says_where_it_starts(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    refine = RefineConfig(steps=2, optimiser="adam")
    config = replace(REFINE, refine=refine, formats=("onnx",), limit=10)
    out, _ = trained("full")
    body = vae_refine(str(out), DATA, config, out=tmp_path / "run").to_dict()
    assert all(check["passed"] for check in body["checks"])
    assert {"encoder.onnx", "decoder.onnx"} == {row["file"] for row in body["files"]}
    assert any("the encoder's Gaussian alone" in note for note in body["model"]["notes"])


# --- files of strangers ---------------------------------------------------------------------


def copied(run, place):
    """Return a copy of a run's model and posterior."""
    place.mkdir()
    for name in ("model.safetensors", "plan.json", "posterior.json", "posterior.safetensors"):
        (place / name).write_bytes((run / name).read_bytes())
    return place


def described(place, **changes):
    body = json.loads((place / "posterior.json").read_text(encoding="utf-8"))
    (place / "posterior.json").write_text(json.dumps({**body, **changes}), encoding="utf-8")


def read(place):
    bench = set_up_vae(VaeSpec(ModelSpec(str(place))), DATA)
    return trained_posterior(bench, bench.test(5), [])


TEXTS = ["[", "[1]", "{}", "null", "[" * 100_000, '{"schema": 1, "family": "full"}',
         '{"schema": 1, "family": "full", "latent": 1e999}', "\x00"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_broken_description_is_refused(trained, tmp_path, text):
    place = copied(trained("full")[0], tmp_path / "run")
    (place / "posterior.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileRefusedError, match=r"posterior\.json") as refusal:
        read(place)
    assert refusal.value.code == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema version"),
        ({"family": "ful"}, "family 'ful'"),
        ({"family": "iaf:²"}, "invalid literal"),
        ({"family": "mn:9" * 10}, "family"),
        ({"family": "mn:4x4"}, "mn:4x4 of 3 latents, and the model has 3"),
        ({"family": "mn:100000x100000"}, "the model has 3"),
        ({"family": "hvi:1000000000"}, "numbers"),
        ({"family": "planar:1000000000"}, "numbers"),
        ({"family": "hvi:2"}, "numbers"),
        ({"family": "diag"}, None),
        ({"latent": 4}, "of 4 latents, and the model has 3"),
        ({"variance_is": ["logvar"]}, "variance_is"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(trained, tmp_path, changes, words):
    place = copied(trained("full")[0], tmp_path / "run")
    described(place, **changes)
    if words is None:  # of what is named diagonal nothing more is read
        assert read(place) is None
        return
    with pytest.raises(FileRefusedError, match=words) as refusal:
        read(place)
    assert len(str(refusal.value)) < 600


def test_another_reading_of_the_spread_is_refused(trained, tmp_path):
    place = copied(trained("full")[0], tmp_path / "run")
    described(place, variance_is="sigma")
    with pytest.raises(UsageError, match="Add --variance-is sigma"):
        read(place)
    described(place, variance_is=None)  # of a run that did not say
    assert read(place).family.family == "full"


def swapped(state, **changes):
    return {**state, **changes}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: swapped(s, **{BIASED: torch.zeros(4)}), "numbers"),
        (lambda s: swapped(s, **{BIASED: torch.zeros(3, 1)}), r"\[3, 1\]"),
        (lambda s: swapped(s, **{BIASED: s[BIASED].double()}), "float64"),
        (lambda s: swapped(s, **{BIASED: s[BIASED] + torch.nan}), "NaN or infinite"),
        (lambda s: {"head.other" if k == BIASED else k: v for k, v in s.items()}, "tensor"),
        (lambda s: {"x": torch.zeros(2)}, "0 numbers"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(trained, tmp_path, change, words):
    place = copied(trained("full")[0], tmp_path / "run")
    path = place / "posterior.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)
    with pytest.raises(FileRefusedError, match=words):
        read(place)


def test_missing_and_damaged_tensors_are_refused(trained, tmp_path):
    place = copied(trained("full")[0], tmp_path / "run")
    path = place / "posterior.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FileRefusedError):
        read(place)
    path.unlink()
    with pytest.raises(FileRefusedError, match="0 numbers"):
        read(place)


def test_a_flow_with_other_masks_is_refused(trained, tmp_path):
    """A mask that lets a number see itself makes log determinants wrong, and so the bounds."""
    place = copied(trained("iaf:2")[0], tmp_path / "run")
    path = place / "posterior.safetensors"
    state = load_file(path)
    name = next(k for k in state if k.endswith("mask"))
    save_file({**state, name: torch.ones_like(state[name])}, path)
    with pytest.raises(FileRefusedError, match="mask of its flow"):
        read(place)


def test_a_broken_posterior_is_refused_by_every_command(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = copied(trained("full")[0], tmp_path / "run")
    described(place, family="hvi:999999999")
    state = load_file(place / "posterior.safetensors")
    save_file(swapped(state, **{BIASED: torch.zeros(1)}), place / "posterior.safetensors")
    data = ["--data", "digits", "--limit", "20"]
    for command in (["vae-eval", "run"], ["vae-refine", "run"]):
        assert main([*command, *data, "--out", "out"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len([row for row in err.splitlines() if row.startswith("error: ")]) == 1
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
    described(place, family="full")
    line = ["vae-fit", "--init", "run", *data, "--posterior", "full", "--epochs", "1"]
    assert main([*line, "--out", "out"]) == 2
    assert "posterior.safetensors" in capsys.readouterr().err


def test_what_refinement_starts_from(trained, tmp_path):
    place = trained("hvi:2")[0]
    bench = set_up_vae(VaeSpec(ModelSpec(str(place))), DATA)
    assert refined_from(bench, None) is bench
    assert refined_from(bench, trained_posterior(bench, bench.test(5), [])) is bench
