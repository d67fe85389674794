"""`bnnkit vae-refine` as a user runs it: tables or JSON, exit codes, one sentence for a fault."""

import json

import pytest
import torch

from bnnkit.__main__ import main
from bnnkit.run import vae_refine as library
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_refine import VaeRefineConfig
from bnnkit.zoo import ZOO

DATA = ["--data", "digits", "--limit", "20"]
QUICK = ["--gap", "0", "--importance", "20", "--no-onnx", "--threads", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a VAE of the public layout, a classifier, and files that are neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO["vae-mnist"](latent=4, hidden=16, in_features=64)
        classifier = ZOO["mnist-lenet"]()
        belief = ZOO["sbn-mnist"](latent=4, in_features=64)
    torch.save(net.state_dict(), "vae.pth")
    torch.save(classifier.state_dict(), "lenet.pth")
    torch.save(belief.state_dict(), "sbn.pth")
    whole = (tmp_path / "vae.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pth").write_text("<html>", encoding="utf-8")


def test_a_run_prints_tables_and_says_what_it_assumed(capsys, tmp_path):
    assert main(["vae-refine", "vae.pth", *DATA, *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("bnnkit vae-refine: vae.pth")
    for words in (
        "fc22 is taken as the log variance", "Encoder against refined", "evidence bound",
        "data improved", "Likelihood by importance sampling",
    ):  # fmt: skip
        assert words in out
    assert out.rstrip().endswith("Run directory: vae-vae-refine")
    assert "refining" in err
    names = {"refined.safetensors", "reconstructions.png", "report.json", "report.html"}
    assert {path.name for path in (tmp_path / "vae-vae-refine").iterdir()} == names


def test_json_is_all_of_stdout(capsys):
    assert main(["vae-refine", "vae.pth", *DATA, *QUICK, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["command"] == "vae-refine"
    assert body["paired"]["elbo_gain"]["n"] == 20


@pytest.mark.parametrize(
    ("gate", "code", "verdict"),
    [
        (["--min-elbo-gain", "-1"], 0, "pass"),
        (["--min-elbo-gain", "50"], 3, "fail"),
        (["--max-nll", "1000"], 0, "pass"),
        (["--max-nll", "1"], 3, "fail"),
        (["--max-nll-rise", "50"], 0, "pass"),
    ],
)
def test_gates(capsys, gate, code, verdict):
    assert main(["vae-refine", "vae.pth", *DATA, *QUICK, *gate, "--json"]) == code
    body = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in body["gates"]] == [verdict]
    run = "vae-vae-refine/report.json"
    assert main(["gate", run, *gate]) == code


def test_a_run_is_replaced_with_force_only(capsys):
    run = ["vae-refine", "vae.pth", *DATA, *QUICK, "--out", "run"]
    assert main(run) == 0
    assert main(run) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*run, "--force"]) == 0


def test_binary_latents_are_refined_and_judged_from_end_to_end(capsys):
    assert main(["vae-refine", "sbn.pth", *DATA, *QUICK, "--out", "run"]) == 0
    out, _ = capsys.readouterr()
    for words in (
        "those of bnnkit:sbn-mnist", "zeros and ones: 4 of them", "ais, rate 0.1",
        "Encoder against refined", "data improved", "ESS, median",
    ):  # fmt: skip
        assert words in out
    gate = ["--min-elbo-gain", "50", "--json"]
    assert main(["vae-refine", "sbn.pth", *DATA, *QUICK, *gate]) == 3
    body = json.loads(capsys.readouterr().out)
    assert body["refinement"]["family"] == "bernoulli"
    ascent = ["--optimiser", "straight-through", "--lr", "0.2", "--steps", "3", "--samples", "4"]
    assert main(["vae-refine", "sbn.pth", *DATA, *QUICK, *ascent, "--out", "st", "--json"]) == 0
    work = json.loads(capsys.readouterr().out)["refinement"]
    assert (work["optimiser"], work["rate"], work["steps"], work["draws"]) == (
        "straight-through", 0.2, 3, 4,
    )  # fmt: skip
    judge = ["vae-eval", "sbn.pth", *DATA, "--samples", "20", "--refined", "run"]
    assert main([*judge, "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["posterior"]["kind"] == "refined"
    assert main([*judge[:-2], "--ais", "2", "--out", "ais"]) == 2
    assert "Hamiltonian" in capsys.readouterr().err


FAULTS = [
    (["missing.pth", *DATA], "no such file"),
    (["page.pth", *DATA], "page.pth"),
    (["cut.pth", *DATA], "cut off"),
    (["lenet.pth", *DATA], "--arch bnnkit:mnist-lenet"),
    (["lenet.pth", "--arch", "bnnkit:mnist-lenet", *DATA], "without 'encode'"),
    (["vae.pth"], "no --data"),
    (["vae.pth", "--data", "nowhere"], "no such folder or file"),
    (["vae.pth", *DATA, "--family", "mn:3x5"], "15 numbers, and 4 latents"),
    (["vae.pth", *DATA, "--family", "mn:RxC"], "stand for numbers"),
    (["vae.pth", *DATA, "--family", "flow", "--optimiser", "natural"], "--optimiser adam"),
    (["vae.pth", *DATA, "--samples", "0"], "--samples"),
    (["vae.pth", *DATA, "--steps", "-1"], "--steps"),
    (["vae.pth", *DATA, "--lr", "0"], "--lr"),
    (["vae.pth", *DATA, "--importance", "9,3"], "--importance"),
    (["vae.pth", *DATA, "--binarise", "none"], "--allow-grey"),
    (["vae.pth", *DATA, "--likelihood", "gaussian"], "--decoder-sigma"),
    (["vae.pth", *DATA, "--ood", "nowhere"], "nowhere"),
    (["vae.pth", *DATA, "--no-onnx", "--max-export-diff", "1"], "max-export-diff"),
    (["vae.pth", *DATA, "--out", "vae.pth"], "it is a file"),
    (["vae.pth", *DATA, "--mean", "0.1"], "--mean"),
    (["vae.pth", *DATA, "--optimiser", "ais"], "are continuous"),
    (["sbn.pth", *DATA, "--optimiser", "natural"], "are binary"),
    (["sbn.pth", *DATA, "--family", "full"], "a Bernoulli of each"),
    (["sbn.pth", *DATA, "--lr", "2"], "at most 1"),
    (["sbn.pth", *DATA, "--steps", "0"], "at least 1"),
    (["sbn.pth", *DATA, "--variance-is", "sigma"], "Leave the option out"),
    (["sbn.pth", *DATA, "--prior", "net.py:p"], "prior_logits"),
]


@pytest.mark.parametrize(("args", "words"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_fault_is_one_sentence(capsys, tmp_path, args, words):
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["vae-refine", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert "internal fault" not in err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_rate_out_of_all_bounds_harms_nothing(capsys):
    args = ["--lr", "1e30", "--optimiser", "sgd"]
    assert main(["vae-refine", "vae.pth", *DATA, *QUICK, *args, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["refinement"]["diverged"] == 20
    assert body["paired"]["elbo_gain"]["value"] == 0


def test_the_defaults_are_those_of_the_library(monkeypatch):
    found = []
    monkeypatch.setattr(library, "vae_refine", lambda *args, **kw: found.append((args, kw)))
    main(["vae-refine", "vae.pth", "--data", "digits"])
    ((spec, data, config), keywords) = found[0]
    assert spec == VaeSpec(ModelSpec("vae.pth"))
    assert config == VaeRefineConfig()
    assert data.name == "digits"
    assert data.limit is None is DataSpec("digits").limit
    assert (keywords["out"], keywords["gates"], keywords["force"]) == (None, None, False)
