"""Training what makes images: runs load and open alone, resumed equals unbroken."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bnnkit
from bnnkit.errors import DataError, TrainingError, UsageError
from bnnkit.io.data import load_data
from bnnkit.io.generators import open_generator
from bnnkit.run.generative import loop as generative_loop
from bnnkit.run.train import default_config, train
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.generator import GeneratorSpec, parse_latent

MLP = ModelSpec(
    arch="bnnkit:mlp-gan-generator",
    arch_args={"latent": 4, "hidden": 32, "out_features": 64},
    input_shape=(1, 8, 8),
)
VAE = ModelSpec(arch="bnnkit:vae-mnist", arch_args={"latent": 3, "hidden": 32, "in_features": 64},
                input_shape=(1, 8, 8))  # fmt: skip
DCGAN = ModelSpec(
    arch="bnnkit:dcgan32-generator", arch_args={"latent": 5, "width": 2, "out_channels": 1}
)
DIGITS = DataSpec("digits", limit=300)


def config(**options):
    return TrainConfig(**{"epochs": 2, "batch_size": 50, "threads": 1, "lr": 2e-3} | options)


def opened(out, latent, out_range, shape=(1, 8, 8)):
    spec = GeneratorSpec(ModelSpec(str(out)), parse_latent(latent), out_range, shape)
    return open_generator(spec)


def test_a_gan_run_is_whole_and_loads_alone(tmp_path):
    report = train(MLP, DIGITS, config(), out=tmp_path / "g").to_dict()
    names = {p.name for p in (tmp_path / "g").iterdir()}
    assert names == {"model.safetensors", "discriminator.safetensors", "plan.json", "report.json",
                     "report.html", "metrics.jsonl", "samples.png"}  # fmt: skip
    assert [row["epoch"] for row in report["curve"]] == [1, 2]
    assert all(math.isfinite(row[k]) for row in report["curve"]
               for k in ("loss", "loss_discriminator", "logit_gap"))  # fmt: skip
    assert report["generator"] == {
        "latent": "normal:4", "out_range": [-1, 1], "shape": [1, 8, 8]
    }  # fmt: skip
    generator = opened(tmp_path / "g", "normal:4", (-1.0, 1.0))
    z = generator.draw(9, torch.Generator().manual_seed(0))
    loaded = bnnkit.load(tmp_path / "g")
    torch.testing.assert_close(
        generator.images(z).flatten(1), (loaded(z) + 1) / 2, atol=1e-6, rtol=0
    )
    score = bnnkit.load(tmp_path / "g" / "discriminator.safetensors")
    assert score(loaded(z)).shape == (9, 1)
    again = json.loads((tmp_path / "g" / "report.json").read_text())
    assert again["generator"] == report["generator"]


def test_an_autoencoder_run_states_its_bound(tmp_path):
    report = train(VAE, DIGITS, config(epochs=3), out=tmp_path / "v").to_dict()
    assert {p.name for p in (tmp_path / "v").iterdir()} == {
        "model.safetensors", "plan.json", "report.json", "report.html", "metrics.jsonl",
        "samples.png",
    }  # fmt: skip
    elbo = report["generator"]["elbo"]
    assert elbo["n"] == 300
    assert elbo["low"] < elbo["value"] < elbo["high"]
    assert any("pixels are drawn as 0 or 1" in note for note in report["data"]["notes"])
    first, last = report["curve"][0], report["curve"][-1]
    assert last["loss"] < first["loss"]
    assert last["loss"] == pytest.approx(last["kl"] + last["reconstruction"])
    assert elbo["value"] == pytest.approx(-last["loss"], abs=6)
    generator = opened(tmp_path / "v", "normal:3", (0.0, 1.0))
    assert any("decoder" in note for note in generator.notes)


@pytest.mark.parametrize("spec", [MLP, VAE, DCGAN], ids=["mlp", "vae", "dcgan"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, monkeypatch, spec):
    data = DataSpec("digits", limit=60)
    train(spec, data, config(epochs=3), out=tmp_path / "whole")

    class Killed(Exception):
        pass

    real, calls = generative_loop._epoch, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*args)

    monkeypatch.setattr(generative_loop, "_epoch", killed)
    with pytest.raises(Killed):
        train(spec, data, config(epochs=3), out=tmp_path / "broken")
    monkeypatch.setattr(generative_loop, "_epoch", real)
    with pytest.raises(UsageError, match="--resume"):
        train(spec, data, config(epochs=3), out=tmp_path / "broken")
    with pytest.raises(UsageError, match="lr was"):
        train(spec, data, config(epochs=3, lr=1e-3), out=tmp_path / "broken", resume=True)
    report = train(spec, data, config(epochs=3), out=tmp_path / "broken", resume=True)
    assert [row["epoch"] for row in report.sections["curve"]] == [1, 2, 3]
    names = ["model.safetensors"] + (["discriminator.safetensors"] if spec is not VAE else [])
    for name in names:
        whole, resumed = (load_file(tmp_path / run / name) for run in ("whole", "broken"))
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), key


def test_seeds_repeat_and_differ(tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(MLP, DIGITS, config(epochs=1, seed=seed), out=tmp_path / out)
    a, b, c = (load_file(tmp_path / run / "model.safetensors") for run in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_a_finished_run_is_replaced_only_by_force(tmp_path):
    train(MLP, DIGITS, config(epochs=1), out=tmp_path / "g")
    with pytest.raises(UsageError, match="finished run"):
        train(MLP, DIGITS, config(epochs=1), out=tmp_path / "g")
    train(MLP, DIGITS, config(epochs=1), out=tmp_path / "g", force=True)


def test_a_run_goes_on_with_its_discriminator(tmp_path):
    train(MLP, DIGITS, config(epochs=1), out=tmp_path / "g")
    report = train(ModelSpec(str(tmp_path / "g"), input_shape=(1, 8, 8)), DIGITS,
                   config(epochs=0), out=tmp_path / "h")  # fmt: skip
    assert any("discriminator of that run" in note for note in report.sections["data"]["notes"])
    first, second = (load_file(tmp_path / run / "discriminator.safetensors") for run in "gh")
    largest = max(float((first[k] - second[k]).abs().max()) for k in first)
    assert largest < 0.1  # its weights are divided once more by a singular value close to 1
    report = train(ModelSpec(str(tmp_path / "g" / "model.safetensors"), input_shape=(1, 8, 8)),
                   DIGITS, config(epochs=1), out=tmp_path / "i")  # fmt: skip
    assert any("fresh weights" in note for note in report.sections["data"]["notes"])


def test_classes_are_a_choice_and_labels_are_not_needed(tmp_path):
    chosen = DataSpec("digits", classes=("0", "1"))
    report = train(MLP, chosen, config(epochs=1), out=tmp_path / "g").to_dict()
    assert report["data"]["n_train"] + report["data"]["n_test"] == 178 + 182
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels)
    report = train(MLP, DataSpec(str(tmp_path / "x.npz")), config(epochs=1), out=tmp_path / "h")
    assert report.sections["data"]["n_train"] == 32


def test_the_rate_of_a_gan_is_its_own():
    assert default_config(MLP).lr == 2e-4
    assert default_config(VAE).lr == TrainConfig().lr
    assert default_config(ModelSpec(arch="bnnkit:digits-cnn")) == TrainConfig()
    assert default_config(ModelSpec(arch="torchvision:resnet18")) == TrainConfig()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"optimiser": "sgd"}, "--optimiser sgd"),
        ({"label_smoothing": 0.1}, "--label-smoothing"),
        ({"freeze_bn": True}, "--freeze-bn"),
        ({"compile": True}, "--compile"),
    ],
)
def test_options_of_classifiers_are_refused(tmp_path, options, name):
    with pytest.raises(UsageError, match=name):
        train(VAE, DIGITS, config(**options), out=tmp_path / "v")
    with pytest.raises(UsageError, match="--mean"):
        train(VAE, DataSpec("digits", mean=(0.5,)), config(), out=tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_sizes_that_do_not_fit_are_told(tmp_path):
    other = ModelSpec(arch=MLP.arch, arch_args=MLP.arch_args, input_shape=(1, 8, 9))
    with pytest.raises(UsageError, match="--input-shape 1x8x9; it makes 64"):
        train(other, DIGITS, config(), out=tmp_path / "g")
    with pytest.raises(UsageError, match="--input-shape 3x32x32; it makes 1x32x32"):
        train(ModelSpec(arch=DCGAN.arch, arch_args=DCGAN.arch_args, input_shape=(3, 32, 32)),
              DIGITS, config(), out=tmp_path / "g")  # fmt: skip
    conv = ModelSpec(arch="bnnkit:vae-conv", input_shape=(1, 8, 8))
    with pytest.raises(UsageError, match="the model does not read them"):
        train(conv, DIGITS, config(), out=tmp_path / "g")
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).normal(size=(40, 8, 8)))
    with pytest.raises(DataError, match="floats in"):
        train(VAE, DataSpec(str(tmp_path / "x.npz")), config(), out=tmp_path / "g")


def test_divergence_is_told(tmp_path):
    with pytest.raises(TrainingError, match="Use --lr"):
        train(VAE, DIGITS, config(lr=1e25, epochs=3), out=tmp_path / "v")


@pytest.mark.slow
def test_a_gan_learns_the_digits(tmp_path):
    """Its images lie nearer to real ones than at the start, and are not one image."""
    data = DataSpec("digits")
    real = load_data(DataSpec("digits", mean=(0.0,), std=(1.0,), labelled=False))
    pixels = torch.cat([x for x, _ in real.train.batches(2000)]).flatten(1)

    def distance(out, epochs):
        settings = config(epochs=epochs, lr=1e-3, batch_size=64)
        train(MLP, data, settings, out=out)
        generator = opened(out, "normal:4", (-1.0, 1.0))
        z = generator.draw(500, torch.Generator().manual_seed(0))
        fake = generator.images(z).detach().flatten(1)
        return float(torch.cdist(fake, pixels).min(1).values.mean()), fake

    start, _ = distance(tmp_path / "a", 0)
    end, fake = distance(tmp_path / "b", 60)
    assert end < 0.55 * start
    assert torch.cdist(fake, fake).mean() > 0.6 * torch.cdist(pixels[:500], pixels[:500]).mean()
