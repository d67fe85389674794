"""ONNX of a class-conditional generator: labels are a second input, checked by onnxruntime."""

import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import bnnkit
from bnnkit.errors import UsageError
from bnnkit.io.data import load_data
from bnnkit.io.generators import open_generator
from bnnkit.run.filtering.onnx import _proved
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.generator import GeneratorSpec, parse_latent
from bnnkit.spec.mh import MhConfig

CODE = """
import torch
from torch import nn

class Whole(nn.Module):
    # one Gaussian of images for each class
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10, 64))
        self.register_buffer("axes", torch.zeros(6, 64))

    def forward(self, z, labels):
        return (self.mean[labels] + z @ self.axes).clamp(0.0, 1.0).reshape(-1, 1, 8, 8)

class Hot(Whole):
    def forward(self, z, labels):
        return (labels @ self.mean + z @ self.axes).clamp(0.0, 1.0).reshape(-1, 1, 8, 8)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("told")
    (home / "gen.py").write_text(CODE)
    data = load_data(DataSpec("digits", mean=(0.0,), std=(1.0,)))
    x = torch.cat([b for b, _ in data.train.batches(2000)]).flatten(1)
    means = torch.stack([x[data.train.labels == c].mean(0) for c in range(10)])
    _, s, v = torch.linalg.svd(x - means[data.train.labels], full_matrices=False)
    axes = 1.5 * v[:6] * s[:6, None] / len(x) ** 0.5
    torch.save({"mean": means, "axes": axes}, home / "gen.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("bnnkit.run.mh_filter.render_html", lambda report: "<!doctype html>")
        yield home


def run(folder, name):
    out = folder / name
    model = ModelSpec(str(folder / "gen.pth"), arch=f"{folder / 'gen.py'}:{name}")
    spec = GeneratorSpec(model, parse_latent("normal:6"), (0.0, 1.0), classes=10)
    config = MhConfig(
        epochs=1.0, samples=200, bank=2000, held=200, metric_samples=100, chain_length=20,
        width=2, controls=(), device="cpu", threads=1,
    )  # fmt: skip
    return out, bnnkit.mh_filter(spec, "digits", config, out=out)


@pytest.fixture(scope="module", params=["Whole", pytest.param("Hot", marks=pytest.mark.slow)])
def told(request, folder):
    return run(folder, request.param)


class Fixed(nn.Module):
    """Code that fixes the batch size of an exported graph."""

    def forward(self, x, labels=None):
        out = 2 * x.reshape(len(x), 4)
        return out if labels is None else out + labels[:, None]


@pytest.mark.parametrize("labels", [None, torch.arange(7)])
def test_a_batch_that_the_code_fixes_is_told_and_proved_in_pieces(tmp_path, labels):
    job = SimpleNamespace(notes=[])
    inputs = torch.rand(7, 4, generator=torch.Generator().manual_seed(0))
    found = _proved(Fixed().eval(), inputs, labels, tmp_path / "f.onnx", "generator", job)
    assert found.inputs == ("input float32 [2, 4]", "labels int64 [2]")[: 1 + (labels is not None)]
    assert any("The batch size is fixed at 2" in note for note in found.notes)
    assert found.check.passed
    assert found.check.n == 7


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_labels_are_a_second_input_of_any_batch(told):
    out, _ = told
    for name, shape in (("generator", [6]), ("discriminator", [1, 8, 8])):
        first, second = session(out / f"{name}.onnx").get_inputs()
        assert (first.name, first.type, first.shape[1:]) == ("input", "tensor(float)", shape)
        assert (second.name, second.type) == ("labels", "tensor(int64)")
        assert second.shape == [first.shape[0]]
        assert isinstance(first.shape[0], str)


def test_the_files_say_what_torch_says(told):
    """Both against the delivered samples and against the sampler, at batch sizes 1, 7 and 200."""
    out, _ = told
    with np.load(out / "samples.npz") as found:
        samples, latents, labels = (found[k] for k in ("samples", "latents", "labels"))
    assert len(set(labels.tolist())) == 10
    generator, discriminator = (session(out / f"{n}.onnx") for n in ("generator", "discriminator"))
    sampler = bnnkit.load(out)
    for count in (1, 7, 200):
        rows = slice(0, count)
        given = {"input": latents[rows], "labels": labels[rows]}
        images = generator.run(None, given)[0]
        assert np.abs(images * 255 - samples[rows]).max() <= 0.5 + 1e-3
        x = samples[rows].astype(np.float32) / 255
        with torch.no_grad():
            ours = sampler.score(torch.from_numpy(x), torch.from_numpy(labels[rows])).numpy()
        scores = discriminator.run(None, {"input": x, "labels": labels[rows]})[0]
        np.testing.assert_allclose(scores.reshape(-1), ours, atol=1e-4)
    other = {"input": latents[:7], "labels": (labels[:7] + 1) % 10}
    assert np.abs(generator.run(None, other)[0] * 255 - samples[:7]).max() > 20


def test_report_and_sampler_say_so(told):
    out, report = told
    inputs = {
        "generator.onnx": ("input float32 [batch, 6]", "labels int64 [batch]"),
        "discriminator.onnx": ("input float32 [batch, 1, 8, 8]", "labels int64 [batch]"),
    }
    files = json.loads((out / "report.json").read_text())["files"]
    assert {f["file"]: tuple(f["inputs"]) for f in files} == inputs
    assert [f["bytes"] for f in files] == [(out / f["file"]).stat().st_size for f in files]
    checks = {
        c["name"]: c["passed"] for c in json.loads((out / "report.json").read_text())["checks"]
    }
    assert checks == {"generator = onnx": True, "discriminator = onnx": True}
    assert not any("exported" in note for note in report.sections["model"]["notes"])
    sampler = bnnkit.load(out)
    assert sampler.serving == inputs
    assert sampler.classes == 10
    assert "classes=10" in repr(sampler)


def test_what_was_written_is_a_generator_again(told):
    out, _ = told
    model = ModelSpec(str(out / "generator.onnx"))
    spec = GeneratorSpec(model, parse_latent("normal:6"), (0.0, 1.0), classes=10)
    again, sampler = open_generator(spec), bnnkit.load(out)
    z = again.draw(9, torch.Generator().manual_seed(0))
    y = torch.arange(9) % 10
    torch.testing.assert_close(again.images(z, y), sampler.generator.images(z, y))
    with pytest.raises(UsageError, match="--conditional N"):
        open_generator(GeneratorSpec(model, spec.latent, (0.0, 1.0)))
