"""Encoder, decoder and refinement under onnxruntime, against torch and the library's own steps."""

import onnxruntime
import pytest
import torch

from bnnkit.bayes.posteriors import Diagonal
from bnnkit.methods.vae.families import start
from bnnkit.methods.vae.noise import balanced
from bnnkit.methods.vae.optimisers import bound_samples, make_stepper
from bnnkit.run.vae import onnx
from bnnkit.run.vae.onnx import write_vae_onnx
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_refine import RefineConfig
from bnnkit.zoo import ZOO

FIXED = """
import torch
from torch import nn


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(2, 64, generator=source))

    def encode(self, x):
        h = x.flatten(1) @ self.weight.T / 8
        return h, -1 - 0.1 * h.square()

    def decode(self, z):
        return torch.stack([row @ self.weight for row in z])


def build():
    return Fixed()
"""


def bench_of(folder, name, spec=None, **args):
    path = folder / "vae.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO[name](**args)
    torch.save(net.state_dict(), path)
    return set_up_vae(spec or VaeSpec(ModelSpec(str(path))), DataSpec("digits"))


@pytest.fixture
def bench(tmp_path):
    return bench_of(tmp_path, "vae-mnist", latent=3, hidden=16, in_features=64)


def answers(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return {
        output.name: torch.from_numpy(value)
        for output, value in zip(session.get_outputs(), session.run(None, arrays), strict=True)
    }


def test_the_encoder_and_the_decoder_at_another_batch(bench, tmp_path):
    notes = []
    config = RefineConfig(optimiser="adam")
    served = write_vae_onnx(tmp_path, bench, config, bench.test(10), notes)
    assert [file.name for file in served] == ["encoder.onnx", "decoder.onnx"]
    assert all(file.check.passed and file.check.worst < 1e-5 for file in served)
    assert ["refine.onnx was not written" in note for note in notes] == [True]
    x = bench.test(25)
    with torch.no_grad():
        mean, log_sigma = bench.model.encode(x)
        (logits,) = bench.model.decode(mean)
    found = answers(tmp_path / "encoder.onnx", input=x)
    torch.testing.assert_close(found["mean"], mean)
    torch.testing.assert_close(found["log_sigma"], log_sigma)
    torch.testing.assert_close(answers(tmp_path / "decoder.onnx", input=mean)["logits"], logits)
    row = served[0].section()
    assert row["inputs"] == ["input: float32 [batch, 64]"]
    assert row["outputs"] == ["mean", "log_sigma"]
    assert row["bytes"] == (tmp_path / "encoder.onnx").stat().st_size
    assert all(p.requires_grad for p in bench.auto.module.parameters())


def test_a_gaussian_decoder_gives_mean_and_log_sigma(linear, tmp_path):
    bench = linear.bench()
    served = write_vae_onnx(tmp_path, bench, RefineConfig(optimiser="sgd"), bench.test(5), [])
    assert served[1].outputs == ("mean", "log_sigma")
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    found = answers(tmp_path / "decoder.onnx", input=z)
    module = bench.auto.module
    torch.testing.assert_close(found["mean"], (z @ module.weight + module.shift).detach())
    torch.testing.assert_close(found["log_sigma"].exp(), torch.full((9, 1), 0.1))


def test_a_decoder_of_one_batch_size_is_left_out(tmp_path):
    (tmp_path / "fixed.py").write_text(FIXED, encoding="utf-8")
    spec = VaeSpec(
        ModelSpec(arch=f"{tmp_path / 'fixed.py'}:build"),
        likelihood="bernoulli", outputs="logits", variance_is="logsigma",
    )  # fmt: skip
    bench = set_up_vae(spec, DataSpec("digits"))
    notes = []
    served = write_vae_onnx(tmp_path, bench, RefineConfig(optimiser="adam"), bench.test(5), notes)
    assert [file.name for file in served] == ["encoder.onnx"]
    assert not (tmp_path / "decoder.onnx").exists()
    assert any(note.startswith("decoder.onnx was not written") for note in notes)


def test_a_wrong_answer_does_not_pass(bench, tmp_path, monkeypatch):
    class Wrong:
        def __init__(self, path):
            pass

        def __call__(self, inputs, outputs):
            return [torch.full((len(inputs["input"]), 3), float("nan")) for _ in outputs]

    monkeypatch.setattr(onnx, "OnnxProgram", Wrong)
    expected = [torch.ones(4, 3), torch.ones(4, 3)]
    check = onnx._compared(
        tmp_path / "encoder.onnx", {"input": (torch.ones(4, 64), 0)}, ("a", "b"), expected, 1e-4
    )
    assert not check.passed
    assert check.worst == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["diag", "full", "mn:2x2"])
def test_the_refinement_takes_the_librarys_own_steps(family, tmp_path):
    bench = bench_of(tmp_path, "vae-mnist", latent=4, hidden=16, in_features=64)
    config = RefineConfig(family=family, steps=4, samples=4)
    notes = []
    served = write_vae_onnx(tmp_path, bench, config, bench.test(5), notes)
    assert notes == []
    assert served[-1].name == "refine.onnx"
    assert served[-1].check.passed
    n = 9
    x, model = bench.test(n), bench.model
    noise = torch.randn(5, 4, n, 4, generator=torch.Generator().manual_seed(3))
    found = answers(tmp_path / "refine.onnx", x=x, noise=noise)
    with torch.no_grad():
        pair = model.encode(x)
        stepper = make_stepper("natural", model, x, start(family, Diagonal(*pair)), pair)
        for k in range(4):
            stepper.step(balanced(noise[k]), config.rate * (1 - k / 4))
        q = stepper.posterior
        after = bound_samples(model, x, q, balanced(noise[-1])).mean(0)
        before = bound_samples(model, x, Diagonal(*pair), balanced(noise[-1])).mean(0)
    torch.testing.assert_close(found["encoder_mean"], pair[0])
    torch.testing.assert_close(found["encoder_log_sigma"], pair[1])
    for name, expected in q.state().items():
        torch.testing.assert_close(found[f"refined_{name}"], expected, atol=2e-4, rtol=2e-3)
    torch.testing.assert_close(found["bound_after"], after, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found["bound_before"], before, atol=1e-3, rtol=1e-4)
    assert float(found["bound_after"].mean()) > float(found["bound_before"].mean())


@pytest.mark.slow
def test_convolutions_are_refined_as_well(tmp_path):
    path = tmp_path / "vae.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO["vae-conv"](latent=7, width=4, size=8)
    torch.save(net.state_dict(), path)
    args = {"latent": 7, "width": 4, "size": 8}
    model = ModelSpec(str(path), "bnnkit:vae-conv", args, input_shape=(1, 8, 8))
    spec = VaeSpec(model)
    bench = set_up_vae(spec, DataSpec("digits"))
    notes = []
    served = write_vae_onnx(tmp_path, bench, RefineConfig(steps=3), bench.test(2), notes)
    assert notes == []
    assert [file.check.passed for file in served] == [True, True, True]
