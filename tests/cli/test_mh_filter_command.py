"""`bnnkit mh-filter` as it is typed: what it prints, its exit codes, and every refusal."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from bnnkit.cli.errors import main
from bnnkit.errors import ExitCode
from bnnkit.io.data import load_data
from bnnkit.spec import DataSpec

SMALL = {
    "--data": "digits", "--latent": "normal:8", "--samples": "200", "--bank": "1000",
    "--held": "100", "--metric-samples": "200", "--chain-length": "20", "--width": "4",
    "--compare": "none", "--threads": "1", "--device": "cpu",
}  # fmt: skip

CODE = """
from torch import nn

def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""


class Spread(nn.Module):
    """Images around the mean digit, along its main directions."""

    def __init__(self):
        super().__init__()
        data = load_data(DataSpec("digits", mean=(0.0,), std=(1.0,)))
        x = torch.cat([b for b, _ in data.train.batches(2000)]).flatten(1)
        mean = x.mean(0)
        _, s, v = torch.linalg.svd(x - mean, full_matrices=False)
        axes = v[:8] * s[:8, None] / len(x) ** 0.5
        self.register_buffer("mean", mean + axes[0])
        self.register_buffer("axes", 1.5 * axes)

    def forward(self, z):
        return (self.mean + z @ self.axes).clamp(0.0, 1.0).reshape(-1, 1, 8, 8)


class Faulty(nn.Module):
    """Images that are none: all NaN, or all alike."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, z):
        ramp = torch.linspace(0.0, 1.0, 64).expand(z.shape[0], 64) * self.value
        return (ramp + 0.0 * z.sum(1, keepdim=True)).reshape(-1, 1, 8, 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        z = torch.zeros(3, 8)
        torch.jit.trace(Spread(), z).save(folder / "gen.pt")
        torch.jit.trace(Faulty(float("nan")), z).save(folder / "nan.pt")
        torch.jit.trace(Faulty(1.0), z).save(folder / "equal.pt")
        (folder / "net.py").write_text(CODE)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        torch.save(net.state_dict(), folder / "net.pth")
        torch.save(nn.Sequential(nn.Linear(8, 64), nn.Sigmoid()), folder / "module.pt")
        np.savez(folder / "black.npz", images=np.zeros((500, 1, 8, 8), np.uint8))
        yield folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Pages and ONNX files have tests of their own, which take longer than all of these."""
    monkeypatch.setattr("bnnkit.run.mh_filter.render_html", lambda report: "<!doctype html>")


@pytest.fixture
def type_in(files, tmp_path, monkeypatch, capsys):
    """Type the command in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args, model="gen.pt", **options):
        given = SMALL | {f"--{key.replace('_', '-')}": value for key, value in options.items()}
        flat = [x for key, value in given.items() if value is not None for x in (key, str(value))]
        code = main(["mh-filter", str(files / model), *args, *flat, "--no-onnx"])
        text = capsys.readouterr()
        assert "Traceback" not in text.err + text.out
        return code, text.out, text.err

    return run


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what it prints and writes --------------------------------------------------------------


def test_a_run_is_told_and_written(type_in, tmp_path):
    code, text, progress = type_in()
    assert code == ExitCode.OK
    assert left(tmp_path) == ["gen-mh-filter"]
    assert "Run directory: gen-mh-filter" in text
    for words in ("Discriminator and chain", "By length of the chain", "Samplers side by side",
                  "TV of generator and data", "vacuous",
                  "real training images (floor)"):  # fmt: skip
        assert words in text
    assert "generating proposals" in progress
    assert progress.count("training the discriminator:") == 1


def test_json_is_all_of_stdout(type_in, tmp_path):
    code, text, _ = type_in("--json", out="a")
    assert code == ExitCode.OK
    printed = json.loads(text)
    written = json.loads((tmp_path / "a" / "report.json").read_text())
    assert printed == written
    assert printed["method"]["config"]["samples"] == 200


def test_a_gate_fails_the_command(type_in, tmp_path):
    code, text, _ = type_in(out="a", max_fid="0.0001", junit="verdict.xml")
    assert code == ExitCode.GATE_FAILED
    assert "max-fid" in text
    suite = ElementTree.parse(tmp_path / "verdict.xml").getroot()
    assert suite.get("failures") == "1"
    assert (tmp_path / "a" / "samples.npz").exists()  # a verdict takes nothing away
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["gates"][0]["verdict"] == "fail"
    assert type_in(out="b", max_fid="1e6")[0] == ExitCode.OK


def test_a_folder_is_replaced_by_force_only(type_in, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    for force in ((), ("--force",)):  # bnnkit did not write it
        code, _, error = type_in(*force, out="a")
        assert code == ExitCode.USAGE
        assert "thesis.txt" in error
        assert left(tmp_path / "a") == ["thesis.txt"]
    assert type_in(out="b")[0] == ExitCode.OK
    written = (tmp_path / "b" / "samples.npz").read_bytes()
    code, _, error = type_in(out="b", seed=1)
    assert code == ExitCode.USAGE
    assert "--force" in error
    assert (tmp_path / "b" / "samples.npz").read_bytes() == written
    assert type_in("--force", out="b", seed=1)[0] == ExitCode.OK
    assert (tmp_path / "b" / "samples.npz").read_bytes() != written


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("gen.pt", {"latent": None}, "no --latent"),
        ("gen.pt", {"latent": "normal:20"}, "normal:20"),
        ("gen.pt", {"latent": "gauss:8"}, "'gauss:8'"),
        ("gen.pt", {"data": None}, "no --data"),
        ("gen.pt", {"out_range": "0,255"}, "hardly fill it"),
        ("gen.pt", {"out_range": "-1,1"}, "those of the data from 0 to 255"),
        ("gen.pt", {"out_range": "logits"}, "all grey"),
        ("gen.pt", {"shape": "1,28,28"}, "an image of 1x28x28 has 784"),
        ("gen.pt", {"input_shape": "1,9,9"}, "1x8x8, and the data have 1x9x9"),
        ("gen.pt", {"discriminator": "konv"}, "Did you mean 'conv'?"),
        ("gen.pt", {"discriminator": "features"}, "--features FILE"),
        ("gen.pt", {"discriminator": "net.pth"}, "--discriminator-arch torchvision:NAME"),
        ("gen.pt", {"features": "net.pth"}, "--features-arch torchvision:NAME"),
        ("gen.pt", {"calibrate": "plat"}, "Did you mean 'platt'?"),
        ("gen.pt", {"compare": "dls"}, "Did you mean 'ddls'?"),
        ("gen.pt", {"samples": "1"}, "it goes from 50"),
        ("gen.pt", {"chain_length": "0"}, "it goes from 1"),
        ("gen.pt", {"bank": "10"}, "Use 100 or more, or 0"),
        ("gen.pt", {"bank": str(10**12)}, "--bank"),
        ("gen.pt", {"seed": str(10**20)}, "--seed"),
        ("gen.pt", {"limit": "60"}, "60 of them"),
        ("gen.pt", {"conditional": "10"}, "it takes no labels"),
        ("gen.pt", {"conditional": "1"}, "Reading --conditional"),
        ("gen.pt", {"input_shape": "64"}, "Resize the data with --input-shape 1,8,8"),
        ("gen.pt", {"discriminator_arch": "net.py:classifier"}, "Leave it out, or name the file"),
        ("gen.pt", {"discriminator_output": "logit"}, "Leave it out, or name the file"),
        ("gen.pt", {"features_arch": "net.py:classifier"}, "Leave it out, or name the file"),
        ("gen.pt", {"features_layer": "1"}, "Leave it out, or name the file"),
        ("gen.pt", {"features": "net.pth", "features_shape": "a,b"}, "Reading --features-shape"),
        ("gen.pt", {"proposal": "walk", "latent": "uniform:8"}, "Using --proposal walk"),
        ("gen.pt", {"proposal": "encoder", "latent": "unit:8"}, "Using --proposal encoder"),
        ("gen.pt", {"proposal": "encoder", "pixels": "sampled"}, "Use --pixels mean"),
        ("gen.pt", {"data": "black.npz"}, "400 equal images"),
        ("module.pt", {}, "--trust-pickle"),
        ("nan.pt", {}, "NaN or infinite"),
        ("equal.pt", {}, "equal images"),
        ("none.pt", {}, "no such file"),
        ("net.pth", {}, "only tensors"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_sentence_and_leaves_nothing(
    type_in, files, tmp_path, model, options, words
):
    for name in ("net.pth", "net.py", "black.npz"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    before = left(tmp_path)
    code, text, error = type_in(model=model, **options)
    assert code == ExitCode.USAGE
    assert text == ""
    told = error[error.index("error: ") :]
    assert words in told
    assert told.count("\n") <= 2  # the sentence, and what to type
    assert left(tmp_path) == before


def test_a_layer_that_is_not_there(type_in, files, tmp_path):
    arch = f"{files / 'net.py'}:classifier"
    code, _, error = type_in(features=files / "net.pth", features_arch=arch, features_layer="fc9")
    assert code == ExitCode.USAGE
    assert "no layer 'fc9'" in error
    code, _, error = type_in(discriminator=files / "net.pth", discriminator_arch=arch)
    assert code == ExitCode.USAGE
    assert "it should give one number an image" in error
    assert left(tmp_path) == []


def test_features_of_another_size(type_in, files, tmp_path):
    arch = f"{files / 'net.py'}:classifier"
    code, _, error = type_in(
        features=files / "net.pth", features_arch=arch, features_shape="1,4,4"
    )
    assert code == ExitCode.USAGE
    assert "mat1 and mat2 shapes cannot be multiplied (2x16 and 64x16)" in error
    assert "--features-shape" in error
    assert left(tmp_path) == []


def test_a_pickled_module_is_refused_before_anything_is_made(type_in, files, tmp_path):
    """A run directory holds no pickle: its generator could not be loaded again."""
    code, _, error = type_in("--trust-pickle", "--shape=1,8,8", model="module.pt")
    assert code == ExitCode.USAGE
    assert "a pickled 'Sequential' without an architecture" in error
    assert "generating" not in error
    assert left(tmp_path) == []


def test_a_run_that_is_stopped_leaves_nothing(type_in, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bnnkit.run.mh_filter.write_filtered", stop)
    code, text, error = type_in(out="a")
    assert code == ExitCode.INTERRUPTED
    assert text == ""
    assert "Interrupted" in error
    assert left(tmp_path) == []


def test_held_out_images_are_a_third_at_most(type_in):
    code, text, _ = type_in(held=100000)
    assert code == ExitCode.OK
    assert "not 100,000" in text
