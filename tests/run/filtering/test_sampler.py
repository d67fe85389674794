"""The sampler of an `mh-filter` run: what it does with numbers of the user's, and broken files."""

import json
import shutil
import zipfile

import pytest
import torch
from torch import nn

import bnnkit
from bnnkit.errors import (
    ArchitectureError,
    BnnkitError,
    FileRefusedError,
    TrainingError,
    UsageError,
)
from bnnkit.io.samples import read_tensors, write_tensors
from bnnkit.run.filtering.judges import FeatureSource
from bnnkit.run.filtering.sampler_load import is_sampler
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


def test_a_description_asks_for_no_trust(copy, tmp_path, monkeypatch):
    """What may run comes from the caller, never from the file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    body = json.loads((copy / "sampler.json").read_text())
    body["generator"]["model"]["arch"] = f"{tmp_path / 'evil.py'}:make"
    (copy / "sampler.json").write_text(json.dumps(body))
    assert bnnkit.load(copy).sample(2, bank=100).shape == (2, 1, 8, 8)  # the file runs by itself
    body["generator"]["model"] |= {"arch": None, "trust_pickle": True}
    (copy / "sampler.json").write_text(json.dumps(body))

    class Evil:
        def __reduce__(self):
            return exec, ("raise SystemExit('ran')",)

    torch.save(Evil(), copy / "generator.pt")
    with pytest.raises(FileRefusedError, match="exec"):
        bnnkit.load(copy)


def test_a_program_with_pickles_needs_the_callers_trust(copy):
    """As on the command line: refused without --trust-pickle, and run with it."""
    with zipfile.ZipFile(copy / "generator.pt", "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/note.pkl", b"cos\nsystem\n.")
    with pytest.raises(FileRefusedError, match=r"os.system"):
        bnnkit.load(copy)
    sampler = bnnkit.load(copy, trust_pickle=True)
    assert sampler.sample(2, bank=100).shape == (2, 1, 8, 8)


OWN = """
import torch
from torch import nn

class Ramp(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(2, 64))

    def forward(self, z):
        return torch.sigmoid(z @ self.slope).reshape(-1, 1, 8, 8)

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run whose generator and classifier are code of the user's own."""
    home = tmp_path_factory.mktemp("own")
    (home / "own.py").write_text(OWN)
    torch.save({"slope": torch.linspace(-3, 3, 128).reshape(2, 64)}, home / "g.pth")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    torch.save(net.state_dict(), home / "net.pth")
    arch, config = f"{home / 'own.py'}:", MhConfig(
        discriminator="features", samples=100, bank=500, held=100, metric_samples=100,
        chain_length=10, controls=(), formats=(), device="cpu", threads=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("bnnkit.run.mh_filter.render_html", lambda report: "<!doctype html>")
        model = ModelSpec(str(home / "g.pth"), arch=f"{arch}Ramp")
        bnnkit.mh_filter(
            GeneratorSpec(model, parse_latent("normal:2"), (0.0, 1.0)), "digits", config,
            features=FeatureSource(ModelSpec(str(home / "net.pth"), arch=f"{arch}net")),
            out=home / "run",
        )  # fmt: skip
    return home / "run", arch


def test_own_code_is_named_again_on_another_machine(own, tmp_path, monkeypatch):
    folder, arch = own
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody named the code here
    with pytest.raises(ArchitectureError, match=r"wants to run .*Ramp"):
        bnnkit.load(folder)
    with pytest.raises(ArchitectureError, match=r"extractor.safetensors.*by itself once"):
        bnnkit.load(folder, arch=f"{arch}Ramp")
    bnnkit.load(folder / "extractor.safetensors", arch=f"{arch}net")
    assert bnnkit.load(folder, arch=f"{arch}Ramp").sample(2, bank=100).shape == (2, 1, 8, 8)
    assert bnnkit.load(folder).sample(2, bank=100).shape == (2, 1, 8, 8)  # remembered


def test_options_that_mean_nothing_are_refused(folder):
    with pytest.raises(UsageError, match=r"state_key='ema'; it is a run of mh-filter"):
        bnnkit.load(folder, state_key="ema")
    sampler = bnnkit.load(folder)
    with pytest.raises(UsageError, match="told none"):
        sampler.sample(2, label=3)
    for given in ({"bank": 0}, {"bank": -3}, {"chain_length": 0}, {"chain_length": -1}):
        with pytest.raises(UsageError, match="it takes 1 or more"):
            sampler.sample(2, **given)
    assert sampler.serving == {}  # this run wrote no ONNX
    assert repr(sampler).startswith("FilteredGenerator(")
