"""A run through an encoder samples again by the same kernel, and never gives a real image."""

import json
import shutil

import numpy as np
import pytest
import torch

import bnnkit
from bnnkit.errors import BnnkitError, DataError, FileRefusedError, UsageError
from bnnkit.io.data import load_data
from bnnkit.io.samples import read_tensors, write_tensors
from bnnkit.metrics.generative import frechet_distance, moments
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.generator import GeneratorSpec, parse_latent
from bnnkit.spec.mh import MhConfig

CODE = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("axes", torch.zeros(8, 64))

class Decoder(Linear):
    def forward(self, z):
        return (self.mean + z @ self.axes).clamp(0.0, 1.0).reshape(-1, 1, 8, 8)

class Vae(Linear):
    def encode(self, x):
        return (x.flatten(1) - self.mean) @ torch.linalg.pinv(self.axes), None

    def decode(self, z):
        return (self.mean + z @ self.axes).clamp(0.0, 1.0).reshape(-1, 1, 8, 8)

    def forward(self, x):
        return self.decode(self.encode(x)[0])
"""


@pytest.fixture(scope="module")
def real():
    data = load_data(DataSpec("digits", mean=(0.0,), std=(1.0,)))
    return (torch.cat([b for b, _ in data.train.batches(2000)]) * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, real):
    home = tmp_path_factory.mktemp("encoder")
    (home / "gen.py").write_text(CODE)
    x = real.flatten(1).float() / 255
    _, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    axes = v[:8] * s[:8, None] / len(x) ** 0.5
    torch.save({"mean": x.mean(0) + 2 * axes[0], "axes": 1.2 * axes}, home / "gen.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("bnnkit.run.mh_filter.render_html", lambda report: "<!doctype html>")
        yield home


@pytest.fixture(scope="module", params=["Vae", "Decoder"])
def run(request, folder):
    """A decoder with an encoder of its own, and one for which an encoder is trained."""
    out = folder / request.param
    model = ModelSpec(str(folder / "gen.pth"), arch=f"{folder / 'gen.py'}:{request.param}")
    config = MhConfig(
        proposal="encoder", step=0.6, epochs=8.0, lr=3e-3, samples=500, bank=2000, held=300,
        metric_samples=500, chain_length=12, width=8, loss="ub", temperature=1.1, controls=(),
        formats=(), device="cpu", threads=1,
    )  # fmt: skip
    spec = GeneratorSpec(model, parse_latent("normal:8"), (0.0, 1.0))
    return out, bnnkit.mh_filter(spec, "digits", config, out=out)


def rows(images):
    return {bytes(image) for image in images.numpy()}


def test_a_loaded_run_samples_through_its_encoder(run, real):
    out, report = run
    sampler = bnnkit.load(out)
    assert sampler.chain_length == 12
    first, again, other = (
        sampler.sample(300, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert first.dtype == torch.uint8
    assert first.shape == (300, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not rows(first) & rows(real)
    with np.load(out / "samples.npz") as found:
        delivered = torch.from_numpy(found["samples"])
    assert len(rows(first) - rows(delivered)) > 250  # they have moved on
    trained = any("encoder was trained" in n for n in report.sections["model"]["notes"])
    assert (sampler.encoder is not None) == trained == (out.name == "Decoder")


def test_it_samples_what_the_report_measured(run, real):
    """Not the raw generator: the distance is that of the report's own row, and well below raw."""
    out, report = run
    named = {row["name"]: row for row in report.sections["samplers"]}
    (continued,) = (row for name, row in named.items() if "continued" in name)
    (judge,) = report.sections["extractors"]
    said, raw = (row["metrics"][judge["name"]]["fid"] for row in (continued, named["raw"]))
    test = load_data(DataSpec("digits", mean=(0.0,), std=(1.0,))).test
    images = torch.cat([b for b, _ in test.batches(2000)]).flatten(1).double()
    pixels = real.flatten(1).double() / 255
    _, _, v = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False)

    def distance(x):
        return frechet_distance(moments(x @ v[:50].T), moments(images @ v[:50].T))

    sampler = bnnkit.load(out)
    drawn = sampler.sample(500, generator=torch.Generator().manual_seed(3))
    unfiltered = sampler.generator.bytes(torch.randn(500, 8, generator=torch.Generator()))
    found, plain = (distance(x.flatten(1).double() / 255) for x in (drawn, unfiltered))
    # the report's own scale of pixels cancels in the ratio
    assert found / plain == pytest.approx(said / raw, rel=0.15)
    assert found < 0.75 * plain


def test_real_starts_may_be_given_and_are_never_returned(run, real):
    sampler = bnnkit.load(run[0])
    drawn = sampler.sample(50, starts=real[:400], chain_length=1)
    assert not rows(drawn) & rows(real)
    for wrong in (real[:5].float(), real[:5, :, :4], real[:0]):
        with pytest.raises(DataError, match=r"uint8 \[m, 1, 8, 8\]"):
            sampler.sample(2, starts=wrong)
    for n, length in ((0, 3), (3, 0), (-1, 3), (3, -2)):
        with pytest.raises(UsageError, match="it takes 1 or more"):
            sampler.sample(n, chain_length=length)


def test_broken_files_are_one_sentence(run, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(run[0], out)
    tensors = read_tensors(out / "discriminator.safetensors")
    half = {k: v for k, v in tensors.items() if not k.endswith("head.weight")}
    write_tensors(out / "discriminator.safetensors", half)
    with pytest.raises(FileRefusedError, match="do not fit together"):
        bnnkit.load(out)
    write_tensors(out / "discriminator.safetensors", tensors)
    (out / "samples.npz").write_bytes(b"no samples")
    with pytest.raises(FileRefusedError, match="a run wrote"):
        bnnkit.load(out)
    np.savez(out / "samples.npz", samples=np.zeros((4, 3, 9, 9), np.uint8))
    with pytest.raises(FileRefusedError, match="do not fit together"):
        bnnkit.load(out)
    body = json.loads((out / "sampler.json").read_text())
    for key in ("floor", "width", "encoder"):
        bad = {**body, "score": {k: v for k, v in body["score"].items() if k != key}}
        (out / "sampler.json").write_text(json.dumps(bad))
        shutil.copy(run[0] / "samples.npz", out / "samples.npz")
        with pytest.raises(BnnkitError, match="Loading the sampler"):
            bnnkit.load(out)


def test_a_run_without_its_sampler_is_not_its_raw_generator(run, tmp_path):
    out = tmp_path / "old"
    shutil.copytree(run[0], out)
    (out / "sampler.json").unlink()
    with pytest.raises(FileRefusedError, match=r"no sampler.json.*unfiltered.*mh-filter"):
        bnnkit.load(out)
