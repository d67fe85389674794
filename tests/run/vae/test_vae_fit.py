"""`vae-fit`: what it writes loads again, resumes exactly, and leaves alone what is frozen."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import bnnkit
from bnnkit.errors import StructureError, UsageError
from bnnkit.io.autoencoders import open_autoencoder
from bnnkit.run.progress import SilentProgress
from bnnkit.run.reporting.vae_fit_digest import vae_fit_tables
from bnnkit.run.vae.fit_setup import set_up_fit
from bnnkit.run.vae_fit import vae_fit
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_fit import VaeFitConfig

ARGS = {"latent": 4, "hidden": 16, "in_features": 64}
SPEC = ModelSpec(arch="bnnkit:vae-mnist", arch_args=ARGS, input_shape=(1, 8, 8))
DATA = DataSpec("digits", limit=200)
QUICK = VaeFitConfig(
    epochs=2, batch_size=50, lr=3e-3, threads=1, device="cpu", nll_samples=5, nll_limit=20
)


def weights(run):
    return load_file(run / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[k], second[k]) for k in first | second)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "run"
    vae_fit(SPEC, DATA, replace(QUICK, posterior="mn:2x2"), out=out)
    return out


class Stop(SilentProgress):
    """Interrupts in the second epoch."""

    def start(self, description, total=None):
        if description.startswith("epoch 2"):
            raise KeyboardInterrupt


def test_the_run_loads_again(run):
    module = bnnkit.load(run)
    for key, value in module.state_dict().items():
        assert torch.equal(value, weights(run)[key])
    auto = open_autoencoder(VaeSpec(ModelSpec(file=str(run))))
    assert (auto.latent, auto.likelihood, auto.shape) == (4, "bernoulli", (1, 8, 8))
    assert json.loads((run / "posterior.json").read_text())["family"] == "mn:2x2"
    assert {"report.html", "metrics.jsonl", "plan.json"} <= {p.name for p in run.iterdir()}
    assert not (run / "checkpoint").exists()


def test_the_report_says_what_was_reached(run):
    body = json.loads((run / "report.json").read_text())
    assert body["bounds"]["test"]["elbo"]["n"] == 200
    assert body["bounds"]["validation"]["elbo"]["n"] == 20
    assert body["likelihood"]["samples"] == 5
    assert body["data"]["binarise_seed"] == 20151119
    assert len(body["curve"]) == 2
    assert {"validation", "kl", "loss"} <= set(body["curve"][0])
    assert [g["name"] for g in body["grids"]] == [
        "Samples", "Data, and below their reconstructions"
    ]  # fmt: skip
    titles = [table.title for table in vae_fit_tables(body)]
    assert titles == ["Evidence lower bound", "Trained"]
    assert vae_fit_tables({}) == []


def test_a_resumed_run_equals_an_unbroken_one(run, tmp_path):
    out = tmp_path / "broken"
    config = replace(QUICK, posterior="mn:2x2")
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        vae_fit(SPEC, DATA, config, out=out, progress=Stop())
    with pytest.raises(UsageError, match="lr was"):
        vae_fit(SPEC, DATA, replace(config, lr=1e-3), out=out, resume=True)
    vae_fit(SPEC, DATA, config, out=out, resume=True)
    assert same(weights(out), weights(run))
    assert same(*(load_file(r / "posterior.safetensors") for r in (out, run)))


@pytest.mark.parametrize("posterior", ["full", "planar:2", "hvi:2"])
def test_an_upgrade_leaves_a_frozen_decoder_bit_for_bit(run, tmp_path, posterior):
    out = tmp_path / "upgraded"
    config = replace(QUICK, posterior=posterior, freeze="decoder", weight_decay=0.1)
    report = vae_fit(str(run), DATA, config, out=out)
    before, after = weights(run), weights(out)
    for name in ("fc3.weight", "fc3.bias", "fc4.weight", "fc4.bias"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["fc1.weight"], after["fc1.weight"])
    assert any("mn:2x2 posterior" in note for note in report.sections["model"]["notes"])
    assert "before" in report.sections


def test_a_run_goes_on_with_its_posterior(run):
    spec = VaeSpec(ModelSpec(file=str(run)))
    job = set_up_fit(spec, DATA, replace(QUICK, posterior="mn:2x2"), "cpu")
    saved = load_file(run / "posterior.safetensors")
    assert same({f"head.{k}": v for k, v in job.net.posterior.state_dict().items()}, saved)


def test_a_full_upgrade_starts_where_the_gaussian_ended(tmp_path):
    plain = vae_fit(SPEC, DATA, replace(QUICK, nll_samples=0), out=tmp_path / "plain")
    upgraded = vae_fit(
        str(tmp_path / "plain"), DATA, replace(QUICK, posterior="full", epochs=0, nll_samples=0),
        out=tmp_path / "full",
    )  # fmt: skip
    found = [r.sections["bounds"]["test"]["elbo"].value for r in (plain, upgraded)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "iwae", "samples": 3},
        {"objective": "alpha", "samples": 3},
        {"objective": "beta", "beta": 2.0, "kl_schedule": "cyclical", "kl_epochs": 1},
        {"estimator": "A", "binarise": "dynamic"},
        {"refine": 2},
        {"full_vb": True},
        {"posterior": "hvi:2", "objective": "avo"},
        {"posterior": "hvi:2", "objective": "avo+elbo", "kl_schedule": "warm-up"},
    ],
)
def test_every_objective_learns(tmp_path, options):
    config = replace(QUICK, epochs=3, nll_samples=0, **options)
    sections = vae_fit(SPEC, DATA, config, out=tmp_path / "run").sections
    start = vae_fit(SPEC, DATA, replace(config, epochs=0), out=tmp_path / "start").sections
    reached, fresh = (s["bounds"]["test"]["elbo"].value for s in (sections, start))
    assert reached > fresh + 2
    assert ("weights" in sections) == config.full_vb


def test_the_avo_alone_trains_transitions_by_their_own_targets(tmp_path):
    """The annealed terms reach the chain; encoder and decoder have losses of their own."""
    from bnnkit.methods.vae.fit_losses import fit_losses

    config = replace(QUICK, posterior="hvi:2", objective="avo")
    job = set_up_fit(VaeSpec(SPEC), DATA, config, "cpu")
    source = torch.Generator().manual_seed(0)
    losses, _ = fit_losses(job.net, job.data.train[:8], config, 1.0, source)
    assert [loss.reaches for loss in losses] == ["encoder", "decoder", "head"]


def test_training_stops_early_and_keeps_the_best_weights(tmp_path):
    config = replace(QUICK, epochs=40, lr=0.3, patience=2, validation=0.3, nll_samples=0)
    sections = vae_fit(SPEC, DATA, config, out=tmp_path / "run").sections
    curve, training = sections["curve"], sections["training"]
    best = max(curve, key=lambda row: row["validation"])
    assert training["kept"] == best["epoch"]
    assert training["stopped"]
    assert len(curve) == training["kept"] + 2
    measured = sections["bounds"]["validation"]["elbo"].value
    assert measured == pytest.approx(best["validation"], abs=1e-4)


def test_fixed_pixels_do_not_depend_on_the_limit_or_the_seed():
    few, more = (
        set_up_fit(VaeSpec(SPEC), replace(DATA, limit=n), replace(QUICK, validation=0.0), "cpu")
        for n in (50, 100)
    )
    rows = lambda job: {tuple(row.tolist()) for row in job.data.train}  # noqa: E731
    assert rows(few) <= rows(more)


def test_dynamic_pixels_are_drawn_anew():
    job = set_up_fit(VaeSpec(SPEC), DATA, replace(QUICK, binarise="dynamic"), "cpu")
    grey = job.data.train[:20]
    assert ((grey > 0) & (grey < 1)).any()
    source = torch.Generator().manual_seed(0)
    first, second = (job.data.draw(grey, source) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)


@pytest.mark.parametrize("objective", ["wake-sleep", "air", "straight-through"])
def test_belief_nets(tmp_path, objective):
    args = {"latent": 5, "in_features": 64}
    spec = ModelSpec(arch="bnnkit:sbn-mnist", arch_args=args, input_shape=(1, 8, 8))
    config = replace(QUICK, objective=objective, samples=3, refine=2)
    report = vae_fit(spec, DATA, config, out=tmp_path / "run")
    assert report.sections["training"]["posterior"] == "binary"
    assert report.sections["bounds"]["test"]["elbo"].value > -64
    assert type(bnnkit.load(tmp_path / "run")).__name__ == "SigmoidBeliefNet"


FOREIGN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Tanh())
        self.decoder = nn.Sequential(
            nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid()
        )

def build():
    torch.manual_seed(0)
    return Net()
"""


def test_anybodys_module_keeps_its_frozen_statistics(tmp_path):
    (tmp_path / "net.py").write_text(FOREIGN)
    spec = ModelSpec(arch=f"{tmp_path / 'net.py'}:build", input_shape=(1, 8, 8))
    vae_fit(spec, DATA, QUICK, out=tmp_path / "first")
    config = replace(QUICK, posterior="full", freeze="decoder")
    report = vae_fit(str(tmp_path / "first"), DATA, config, out=tmp_path / "second")
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    decoder = [name for name in before if name.startswith("decoder")]
    assert any("running_mean" in name for name in decoder)
    assert all(torch.equal(before[name], after[name]) for name in decoder)
    assert not torch.equal(before["encoder.0.weight"], after["encoder.0.weight"])
    assert report.sections["training"]["posterior_parameters"] == 4 * 1 + 1  # mean and log sigma


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="6 numbers and the model 4 latents"):
        vae_fit(SPEC, DATA, replace(QUICK, posterior="mn:3x2"), out=tmp_path / "a")
    with pytest.raises(StructureError, match="prior_logits"):
        vae_fit(SPEC, DATA, replace(QUICK, objective="air"), out=tmp_path / "b")
    config = replace(QUICK, objective="air", posterior="full")
    with pytest.raises(UsageError, match="Bernoulli posterior"):
        vae_fit(ModelSpec(arch="bnnkit:sbn-mnist"), DATA, config, out=tmp_path / "c")
    gaussian = ModelSpec(
        arch="bnnkit:vae-gaussian", arch_args={"in_features": 64}, input_shape=(1, 8, 8)
    )
    with pytest.raises(UsageError, match="dynamic"):
        vae_fit(gaussian, DATA, replace(QUICK, binarise="dynamic"), out=tmp_path / "d")


def test_a_gaussian_decoder_on_grey_images(tmp_path):
    args = {"latent": 3, "hidden": 16, "in_features": 64}
    spec = ModelSpec(arch="bnnkit:vae-gaussian", arch_args=args, input_shape=(1, 8, 8))
    report = vae_fit(spec, DATA, replace(QUICK, epochs=5), out=tmp_path / "run")
    assert report.sections["model"]["likelihood"] == "gaussian"
    curve = report.sections["curve"]
    assert curve[-1]["bound"] > curve[0]["bound"]
