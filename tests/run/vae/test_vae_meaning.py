"""What a run of `vae-fit` says of its numbers, and who may say otherwise."""

import json
from dataclasses import replace

import numpy as np
import pytest

import bnnkit
from bnnkit.errors import FileRefusedError, UsageError
from bnnkit.io.rundir import AUTOENCODER_JSON
from bnnkit.run.vae.meaning import remembered, write_meaning
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_eval import VaeEvalConfig
from bnnkit.spec.vae_fit import VaeFitConfig

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 12)
        self.mu, self.spread = nn.Linear(12, 3), nn.Linear(12, 3)
        self.outer = nn.Linear(3, 16)

    def encode(self, x):
        h = torch.tanh(self.inner(x.flatten(1)))
        return self.mu(h), self.spread(h)

    def decode(self, z):
        return torch.sigmoid(self.outer(z))
"""


def trained(folder, **values):
    spec = VaeSpec(ModelSpec(file=str(folder)), **values)
    write_meaning(spec, folder)
    return spec


def test_what_nobody_stated_is_what_it_was_trained_as(tmp_path):
    spec = trained(tmp_path, likelihood="gaussian", decoder_sigma=0.2, variance_is="sigma",
                   input_range=(-1.0, 1.0), allow_grey=True)  # fmt: skip
    assert remembered(VaeSpec(spec.model)) == spec
    elsewhere = VaeSpec(ModelSpec(file=str(tmp_path / "model.safetensors")))
    assert remembered(elsewhere) is elsewhere


def test_what_is_stated_wins(tmp_path):
    spec = trained(tmp_path, likelihood="gaussian", decoder_sigma=0.2, variance_is="sigma")
    asked = VaeSpec(spec.model, variance_is="logvar", decoder_sigma=0.5)
    assert remembered(asked) == replace(spec, variance_is="logvar", decoder_sigma=0.5)
    other = remembered(VaeSpec(spec.model, likelihood="bernoulli"))
    assert (other.likelihood, other.decoder_sigma, other.variance_is) == (
        "bernoulli", None, "sigma",
    )  # fmt: skip
    read = remembered(VaeSpec(spec.model, decoder_variance_is="logvar"))
    assert (read.decoder_sigma, read.decoder_variance_is) == (None, "logvar")


def test_a_prior_that_is_code_has_to_be_stated(tmp_path):
    spec = trained(tmp_path, prior="mine.py:log_prior")
    with pytest.raises(UsageError, match="--prior"):
        remembered(VaeSpec(spec.model))
    assert remembered(VaeSpec(spec.model, prior="here.py:log_prior")).prior == "here.py:log_prior"


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{", '{"schema": 2}', '{"schema": 1, "likelihood": "bernoulli"}', "\x00" * 9],
)
def test_a_broken_description_is_refused(tmp_path, text):
    (tmp_path / AUTOENCODER_JSON).write_text(text)
    with pytest.raises(FileRefusedError, match=r"autoencoder\.json"):
        remembered(VaeSpec(ModelSpec(file=str(tmp_path))))


def test_values_that_mean_nothing_are_refused(tmp_path):
    spec = trained(tmp_path)
    body = json.loads((tmp_path / AUTOENCODER_JSON).read_text())
    for key, value in (("likelihood", "x" * 500), ("input_range", [1]), ("decoder_sigma", "a")):
        (tmp_path / AUTOENCODER_JSON).write_text(json.dumps({**body, key: value}))
        with pytest.raises(FileRefusedError) as caught:
            remembered(VaeSpec(spec.model))
        assert len(str(caught.value)) < 700


def test_a_run_is_judged_as_it_was_trained(tmp_path, monkeypatch):
    """Continuous Bernoulli in, continuous Bernoulli out, and the same bound."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.setenv("HOME", str(tmp_path))
    grey = np.random.default_rng(0).uniform(size=(120, 1, 4, 4)) ** 6
    np.savez(tmp_path / "grey.npz", x=(grey * 255).astype(np.uint8), y=np.zeros(120, int))
    data = DataSpec(str(tmp_path / "grey.npz"), labelled=False)
    spec = VaeSpec(
        ModelSpec(arch=f"{tmp_path / 'net.py'}:Net", input_shape=(1, 4, 4)),
        likelihood="continuous-bernoulli", outputs="probabilities", variance_is="logsigma",
    )  # fmt: skip
    out = tmp_path / "fit"
    config = VaeFitConfig(epochs=2, batch_size=20, nll_samples=10)
    fitted = bnnkit.vae_fit(spec, data, config, out=out)
    judged = bnnkit.vae_eval(
        str(out), data, VaeEvalConfig(samples=(10,), elbo_samples=200), out=tmp_path / "eval"
    )
    told = judged.sections["model"]
    assert (told["likelihood"], told["variance_is"]) == ("continuous-bernoulli", "logsigma")
    bound = judged.sections["bound"]["elbo"].value
    assert bound == pytest.approx(fitted.sections["bounds"]["test"]["elbo"].value, abs=0.3)
