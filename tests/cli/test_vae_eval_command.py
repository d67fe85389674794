"""`bnnkit vae-eval` as a user runs it, on its own and on what `vae-refine` wrote."""

import json

import pytest
import torch

from bnnkit.__main__ import main
from bnnkit.run import vae_eval as library
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_eval import VaeEvalConfig
from bnnkit.zoo import ZOO

DATA = ["--data", "digits", "--limit", "20"]
QUICK = ["--samples", "5,30", "--elbo-samples", "20", "--threads", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with two VAEs of the public layout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for seed, name in enumerate(("vae.pth", "other.pth")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = ZOO["vae-mnist"](latent=4, hidden=16, in_features=64)
        torch.save(net.state_dict(), name)


def test_a_run_prints_tables(capsys, tmp_path):
    assert main(["vae-eval", "vae.pth", *DATA, *QUICK, "--ais", "2",
                 "--ais-temperatures", "5", "--ais-chains", "2"]) == 0  # fmt: skip
    out, _ = capsys.readouterr()
    assert out.startswith("bnnkit vae-eval: vae.pth")
    for words in ("evidence bound", "KL(q || p)", "prior, annealed in 5", "of 4 are active"):
        assert words in out
    assert out.rstrip().endswith("Run directory: vae-vae-eval")
    names = {path.name for path in (tmp_path / "vae-vae-eval").iterdir()}
    assert {"samples.png", "reconstructions.png", "traversals.png"} < names


@pytest.mark.parametrize(("limit", "code"), [("1000", 0), ("1", 3)])
def test_json_and_the_gate(capsys, limit, code):
    args = ["vae-eval", "vae.pth", *DATA, *QUICK, "--max-nll", limit, "--json"]
    assert main(args) == code
    body = json.loads(capsys.readouterr().out)
    assert [row["samples"] for row in body["importance"]] == [5, 30]
    assert len(body["gates"]) == 1


def test_refined_posteriors(capsys):
    few = ["--gap", "0", "--importance", "5,30", "--no-onnx", "--threads", "1"]
    assert main(["vae-refine", "vae.pth", *DATA, *few, "--out", "refined"]) == 0
    capsys.readouterr()
    args = ["vae-eval", "vae.pth", *DATA, *QUICK, "--refined", "refined"]
    assert main([*args, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["posterior"]["kind"] == "refined"
    faults = [
        (["vae-eval", "other.pth", *DATA, "--refined", "refined"], "answers otherwise"),
        (["vae-eval", "vae.pth", "--data", "digits", "--limit", "21", "--refined", "refined"],
         "posteriors of 20 data, and 21 are judged"),
        (["vae-eval", "vae.pth", *DATA, "--classes", "0,1", "--refined", "refined"], "and here"),
        (["vae-eval", "vae.pth", *DATA, "--refined", "vae.pth"], "not of vae-refine"),
        (["vae-eval", "vae.pth", *DATA, "--refined", "nowhere"], "no such file"),
    ]  # fmt: skip
    for line, words in faults:
        assert main([*line, "--out", "again"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert len([row for row in err.splitlines() if row.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["vae.pth"], "no --data"),
        (["vae.pth", *DATA, "--samples", "0"], "--samples"),
        (["vae.pth", *DATA, "--samples", "30,5"], "--samples"),
        (["vae.pth", *DATA, "--elbo-samples", "1"], "--elbo-samples"),
        (["vae.pth", *DATA, "--binarise", "none"], "--allow-grey"),
        (["vae.pth", *DATA, "--limit", "-1"], "--limit"),
        (["vae.pth", *DATA, "--min-elbo-gain", "1"], "--min-elbo-gain"),
    ],
)
def test_refusals(capsys, tmp_path, args, words):
    assert main(["vae-eval", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert not (tmp_path / "vae-vae-eval").exists()


def test_the_defaults_are_those_of_the_library(monkeypatch):
    found = []
    monkeypatch.setattr(library, "vae_eval", lambda *args, **kw: found.append((args, kw)))
    main(["vae-eval", "vae.pth", "--data", "digits"])
    ((spec, data, config), keywords) = found[0]
    assert spec == VaeSpec(ModelSpec("vae.pth"))
    assert config == VaeEvalConfig()
    assert data.name == "digits"
    assert (keywords["refined"], keywords["gates"], keywords["force"]) == (None, None, False)
