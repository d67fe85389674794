"""The sampler of an `mh-filter` run: what it does with numbers of the user's, and broken files."""

import json
import shutil

import pytest
import torch
from torch import nn

import bnnkit
from bnnkit.errors import BnnkitError, FileRefusedError, TrainingError, UsageError
from bnnkit.io.samples import read_tensors, write_tensors
from bnnkit.run.mh_sampler import is_sampler
from bnnkit.spec import ModelSpec
from bnnkit.spec.generator import GeneratorSpec, parse_latent
from bnnkit.spec.mh import MhConfig


class Ramp(nn.Module):
    """Slanted grey images."""

    def forward(self, z):
        ramp = torch.linspace(-1.0, 1.0, 64).expand(z.shape[0], 64)
        return torch.sigmoid(3.0 * z[:, :1] * ramp + 2.0 * z[:, 1:]).reshape(-1, 1, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("ramp")
    torch.jit.trace(Ramp(), torch.zeros(3, 2)).save(home / "ramp.pt")
    config = MhConfig(
        calibrate="isotonic", epochs=0.3, samples=100, bank=1000, held=100, metric_samples=100,
        chain_length=10, width=2, controls=(), formats=(), device="cpu", threads=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnnkit.run.mh_filter.render_html", lambda report: "<!doctype html>")
        spec = GeneratorSpec(
            ModelSpec(file=str(home / "ramp.pt")), parse_latent("normal:2"), (0.0, 1.0)
        )
        bnnkit.mh_filter(spec, "digits", config, out=home / "run")
    (home / "ramp.pt").unlink()
    return home / "run"


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_numbers_of_the_users(folder):
    sampler = bnnkit.load(folder)
    assert sampler.chain_length == 10
    assert sampler.sample(3, bank=150, chain_length=1).shape == (3, 1, 8, 8)
    for n in (0, -1):
        with pytest.raises(UsageError, match=f"{n} images"):
            sampler.sample(n)


def test_a_moved_folder_is_as_good(folder, copy):
    moved = copy.rename(copy.with_name("elsewhere"))
    first, second = bnnkit.load(folder), bnnkit.load(moved)
    assert torch.equal(first.sample(20, bank=300), second.sample(20, bank=300))


def test_images_are_drawn_by_their_scores(folder):
    """Where one half of the images has a score e^5 times the other's, chains stay in that half."""
    sampler = bnnkit.load(folder)

    class Half(nn.Module):
        def forward(self, images, labels=None):
            return 5.0 * (images.flatten(1).mean(1) > 0.5).float()

    sampler.score = Half()
    sampler.starts = torch.full((50,), 5.0)
    drawn = sampler.sample(2000, bank=4000, chain_length=300)
    share = (drawn.flatten(1).float().mean(1) > 127.5).double().mean()
    raw = sampler.generator.bytes(torch.randn(4000, 2, generator=torch.Generator().manual_seed(3)))
    q = (raw.flatten(1).float().mean(1) > 127.5).double().mean()
    exact = q * torch.e**5 / (q * torch.e**5 + 1 - q)
    assert float(share) == pytest.approx(float(exact), abs=0.01)


def test_a_score_without_overlap_is_refused(folder):
    sampler = bnnkit.load(folder)
    sampler.starts = torch.full((50,), 1e4)
    with pytest.raises(TrainingError, match="accepted none of"):
        sampler.sample(5, bank=200)


def test_what_is_a_sampler(folder, tmp_path):
    assert is_sampler(folder)
    assert not is_sampler(tmp_path)
    assert not is_sampler(folder / "sampler.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("generator", None),
        ("generator", {"model": {}}),
        ("score", {"kind": "calibrated"}),
        ("score", {"kind": "unheard-of"}),
        ("score", None),
        ("chain_length", "many"),
    ],
)
def test_a_broken_description_is_refused(copy, key, value):
    body = json.loads((copy / "sampler.json").read_text())
    body[key] = value
    (copy / "sampler.json").write_text(json.dumps(body))
    with pytest.raises(BnnkitError, match=r"Loading the sampler"):
        bnnkit.load(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff\xfe"])
def test_a_description_that_is_none(copy, text):
    (copy / "sampler.json").write_text(text, encoding="latin-1")
    with pytest.raises(FileRefusedError, match="Loading the sampler"):
        bnnkit.load(copy)


def test_missing_and_foreign_tensors(copy):
    path = copy / "discriminator.safetensors"
    tensors = read_tensors(path)
    for lost in ("starts", "score.net.head.weight"):
        write_tensors(path, {k: v for k, v in tensors.items() if k != lost})
        with pytest.raises(FileRefusedError, match="its files do not fit together"):
            bnnkit.load(copy)
    path.write_bytes(b"not tensors")
    with pytest.raises(FileRefusedError, match="safetensors"):
        bnnkit.load(copy)
    path.unlink()
    with pytest.raises(FileRefusedError):
        bnnkit.load(copy)


def test_files_out_of_the_folder_are_not_read(copy, tmp_path):
    (copy / "generator.pt").rename(tmp_path / "generator.pt")
    body = json.loads((copy / "sampler.json").read_text())
    body["generator"]["model"]["file"] = "../generator.pt"
    (copy / "sampler.json").write_text(json.dumps(body))
    with pytest.raises(FileRefusedError, match="no such file"):
        bnnkit.load(copy)


def test_code_that_a_description_names_is_not_run(copy, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    body = json.loads((copy / "sampler.json").read_text())
    body["generator"]["latent"] = {
        "kind": "factory", "shape": [2], "source": f"{tmp_path / 'evil.py'}:sampler",
    }  # fmt: skip
    (copy / "sampler.json").write_text(json.dumps(body))
    with pytest.raises(UsageError, match="is not run"):
        bnnkit.load(copy)
