"""`bnnkit sbn-fit` end to end: its files judged as a stranger would, its exit codes, refusals."""

import hashlib
import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnnkit
from bnnkit.cli.errors import main
from bnnkit.io.data import load_data
from bnnkit.io.models import load_model
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.noise import SAMPLERS

DATA = ["--data", "digits", "--limit", "240"]
SMALL = ["--batches", "50", "--batch-size", "8", "--samples", "3", "--bench-batch", "1",
         "--threads", "1", "--device", "cpu"]  # fmt: skip
BARE = [*SMALL, "--no-onnx", "--no-pt2", "--mc-bn", "0"]

CODE = """
from torch import nn

def net(drop=0.0, norm="batch", classes=10):
    normal = nn.BatchNorm2d if norm == "batch" else lambda c: nn.GroupNorm(2, c)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), normal(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, bias=False), normal(12), nn.ReLU(), nn.Flatten(),
        nn.Dropout(drop), nn.Linear(12, classes),
    )
"""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Code of these tests is remembered in a home of its own; nothing is timed for long."""
    from bnnkit.run.latency import section as latency

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        real = latency.time_interleaved
        patch.setattr(
            latency, "time_interleaved", lambda *a, **k: real(*a, **{**k, "max_seconds": 0.05})
        )
        yield


@pytest.fixture(autouse=True)
def _short_page(run, monkeypatch):
    """Only the full run draws its page, which takes longer than all the rest."""
    monkeypatch.setattr("bnnkit.run.sbn.render_html", lambda report: "<!doctype html>")


@pytest.fixture(scope="module")
def code(home, tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "net.py"
    path.write_text(CODE)
    return f"{path}:net"


def trained(code, path, seed, **args):
    """Train for some steps on digits, and write the weights."""
    module = load_model(ModelSpec(arch=code, arch_args=args), seed=seed).module
    data = load_data(DataSpec("digits", limit=240))
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(8):
            for x, y in data.train.batches(40, shuffle=True, generator=generator):
                optimiser.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimiser.step()
    torch.save(module.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(code, tmp_path_factory):
    return trained(code, tmp_path_factory.mktemp("net") / "net.pt", 0)


@pytest.fixture(scope="module")
def digest(checkpoint):
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def run(checkpoint, digest, code, tmp_path_factory):
    """One full run: every form, every row."""
    out = tmp_path_factory.mktemp("full") / "run"
    args = ["sbn-fit", str(checkpoint), "--arch", code, *DATA, *SMALL, "--mc-bn", "4"]
    assert main([*args, "--out", str(out)]) == 0
    return out


def call(capsys, *args):
    status = main(["sbn-fit", *map(str, args)])
    return (status, *capsys.readouterr())


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_inputs():
    return load_data(DataSpec("digits", limit=240)).test


test_inputs.__test__ = False


# --- one full run ---------------------------------------------------------------------------


def test_everything_is_written_and_nothing_else(run):
    names = {p.name for p in run.iterdir()}
    assert names == {"model.safetensors", "model.pt2", "model.onnx", "plan.json", "report.json",
                     "report.html"}  # fmt: skip
    assert [p.name for p in run.parent.iterdir()] == ["run"]


def test_the_original_is_untouched_and_its_weights_are_in_the_run(run, checkpoint, digest):
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == digest
    before = torch.load(checkpoint)
    after = load_model(ModelSpec(file=str(run))).module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_report_has_its_sections(run):
    body = report_of(run)
    assert body["command"] == "sbn-fit"
    for name in ("model", "data", "method", "calibration", "fit", "original", "slim", "paired",
                 "methods", "verdict", "reliability", "risk_coverage", "entropy_cdf", "latency",
                 "checks"):  # fmt: skip
        assert body[name], name
    assert [row["name"] for row in body["methods"]] == [
        "bn", "temperature", "means", "lowrank", "lowrank+temperature", "mc-bn"
    ]  # fmt: skip
    (delivered,) = [row for row in body["methods"] if row["delivered"]]
    assert delivered["name"] == "lowrank+temperature"
    assert body["slim"] == {key: delivered[key] for key in body["slim"]}
    assert body["paired"] == delivered["paired"]
    assert body["calibration"]["temperature"] == delivered["temperature"]
    assert body["fit"]["batches"] == 50
    assert all(check["passed"] for check in body["checks"])
    assert {row["runtime"] for row in body["latency"]} == {"torch", "onnxruntime"}
    assert body["methods"][-1]["n"] == 4
    for value in (body["slim"]["error"], body["original"]["nll"]):
        assert value["low"] <= value["value"] <= value["high"]
    assert (run / "report.html").read_text().count("<svg") >= 4


def test_the_original_row_is_what_torch_says(run, checkpoint, code):
    module = load_model(ModelSpec(file=str(checkpoint), arch=code)).module.eval()
    test = test_inputs()
    x = torch.cat([x for x, _ in test.batches(64)])
    with torch.no_grad():
        out = module(x).double()
    body = report_of(run)["original"]
    assert body["nll"]["value"] == pytest.approx(float(F.cross_entropy(out, test.labels)))
    wrong = 100 * float((out.argmax(1) != test.labels).double().mean())
    assert body["error"]["value"] == pytest.approx(wrong)


@pytest.mark.parametrize("form", ["", "model.safetensors", "model.pt2", "model.onnx"])
def test_eval_of_every_form_agrees_with_the_model_that_is_loaded(run, form, capsys):
    assert main(["eval", str(run / form), *DATA, "--device", "cpu", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)["slim"]
    test = test_inputs()
    x = torch.cat([x for x, _ in test.batches(64)])
    with torch.no_grad():
        p = bnnkit.load(run)(x).double()
    wrong = 100 * float((p.argmax(1) != test.labels).double().mean())
    assert body["error"]["value"] == pytest.approx(wrong)
    nll = float(F.nll_loss(p.log(), test.labels))
    assert body["nll"]["value"] == pytest.approx(nll, abs=1e-5)


def test_eval_agrees_with_the_report_where_no_half_has_its_own_temperature(
    run, tmp_path, capsys, checkpoint, code
):
    """With `test:SHARE` there is one temperature; the delivered file has it."""
    args = [checkpoint, "--arch", code, *DATA, *BARE, "--calibration-split", "train:0.2"]
    assert call(capsys, *args, "--out", tmp_path / "r")[0] == 0
    said = report_of(tmp_path / "r")["slim"]
    assert main(["eval", str(tmp_path / "r"), *DATA, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["slim"]
    for key in ("error", "nll", "ece", "brier"):
        assert found[key]["value"] == pytest.approx(said[key]["value"], abs=1e-4), key


def test_the_loaded_model_repeats_itself_and_tells_its_doubt(run):
    x = torch.cat([x for x, _ in test_inputs().batches(20)])[:20]
    state = torch.random.get_rng_state()
    first, second = bnnkit.load(run), bnnkit.load(run)
    a, b, c = first(x), first(x), second(x)
    assert torch.equal(a, b)
    torch.testing.assert_close(a, c, rtol=0, atol=1e-6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.training
    torch.testing.assert_close(a.sum(1), torch.ones(20))
    found = first.predict(x, samples=8)
    assert found.probabilities.shape == (20, 10)
    assert bool((found.mutual_information >= 0).all())
    assert not torch.equal(found.probabilities, a)


def test_onnx_under_plain_onnxruntime_agrees_with_the_loaded_model(run):
    session = onnxruntime.InferenceSession(
        str(run / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    x = torch.cat([x for x, _ in test_inputs().batches(5)])[:5]
    recipe = json.loads(session.get_modelmeta().custom_metadata_map["bnnkit.noise"])
    generator = torch.Generator().manual_seed(recipe["seed"])
    noise = torch.randn(recipe["samples"], recipe["size"], generator=generator)
    found = session.run(["probabilities"], {"input": x.numpy(), "noise": noise.numpy()})[0]
    with torch.no_grad():
        assert np.abs(found - bnnkit.load(run)(x).numpy()).max() < 1e-5


# --- options --------------------------------------------------------------------------------


def test_json_is_all_that_goes_to_stdout(checkpoint, code, tmp_path, capsys):
    status, out, err = call(
        capsys, checkpoint, "--arch", code, *DATA, *BARE, "--json", "--out", tmp_path / "r"
    )
    assert status == 0
    assert json.loads(out) == report_of(tmp_path / "r")
    assert "fitting the statistics" in err


@pytest.mark.parametrize(
    ("limits", "status", "verdicts"),
    [
        (["--max-nll-rise", "1", "--max-error", "100"], 0, ["pass", "pass"]),
        (["--max-nll-rise", "-5", "--max-ece", "100"], 3, ["fail", "pass"]),
    ],
)
def test_gates_decide_the_exit_code(limits, status, verdicts, checkpoint, code, tmp_path, capsys):
    args = [checkpoint, "--arch", code, *DATA, *BARE, *limits, "--junit", tmp_path / "j.xml"]
    assert call(capsys, *args, "--out", tmp_path / "r")[0] == status
    assert [row["verdict"] for row in report_of(tmp_path / "r")["gates"]] == verdicts
    assert ("<failure" in (tmp_path / "j.xml").read_text()) == (status == 3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_is_delivered(sampler, checkpoint, code, tmp_path, capsys):
    args = [checkpoint, "--arch", code, *DATA, *BARE, "--sampler", sampler, "--calibrate", "none"]
    assert call(capsys, *args, "--out", tmp_path / "r")[0] == 0
    body = report_of(tmp_path / "r")
    assert [row["name"] for row in body["methods"]] == ["bn", "means", sampler]
    assert body["calibration"]["temperature"] == 1.0
    assert json.loads((tmp_path / "r" / "plan.json").read_text())["noise"]["sampler"] == sampler
    model = bnnkit.load(tmp_path / "r")
    assert type(model.sampler).__name__.lower() == sampler.replace("-", "")
    test = test_inputs()
    x = torch.cat([x for x, _ in test.batches(64)])
    with torch.no_grad():
        nll = float(F.nll_loss(model(x).double().log(), test.labels))
    assert body["slim"]["nll"]["value"] == pytest.approx(nll, abs=1e-5)


def test_onnx_that_draws_for_itself(checkpoint, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bnnkit.run.sbn.time_against_original", lambda *_, **__: [])
    args = [checkpoint, "--arch", code, *DATA, *SMALL, "--mc-bn", "0", "--no-pt2",
            "--onnx-noise", "operator", "--out", tmp_path / "r"]  # fmt: skip
    assert call(capsys, *args)[0] == 0
    session = onnxruntime.InferenceSession(
        str(tmp_path / "r" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == ["input"]
    assert "bnnkit.noise" not in session.get_modelmeta().custom_metadata_map
    x = torch.cat([x for x, _ in test_inputs().batches(5)])[:5].numpy()
    first, second = (session.run(["probabilities"], {"input": x})[0] for _ in range(2))
    assert np.abs(first - second).max() > 1e-6
    assert np.abs(first.sum(1) - 1).max() < 1e-5
    check = report_of(tmp_path / "r")["checks"][-1]
    assert (check["name"], check["passed"]) == ("stochastic = onnx, own draws", True)


def test_everything_to_compare_at_once(checkpoint, code, tmp_path, capsys):
    """Samplers, members, MC dropout, and data of another domain that nobody trained on."""
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x_train=generator.random((40, 8, 8), np.float32),
             y_train=np.arange(40) % 10, x_test=generator.random((30, 8, 8), np.float32),
             y_test=np.arange(30) % 10)  # fmt: skip
    files = [trained(code, tmp_path / f"{i}.pt", i, drop=0.3) for i in (1, 2)]
    args = [files[0], "--arch", code, "--arch-arg", "drop=0.3", *DATA, *BARE,
            "--compare", "factorised", "--member", files[1],
            "--ood", tmp_path / "noise.npz", "--ood-limit", "25",
            "--calibration-split", "test:0.4"]  # fmt: skip
    assert call(capsys, *args, "--out", tmp_path / "r")[0] == 0
    body = report_of(tmp_path / "r")
    rows = {row["name"]: row for row in body["methods"]}
    heated = ("lowrank", "factorised", "mc-dropout", "ensemble", "ensemble-sbn")
    assert set(rows) == {
        "bn", "temperature", "means", *heated, *(f"{name}+temperature" for name in heated)
    }  # fmt: skip
    assert rows["ensemble"]["samples"] == 2
    assert rows["ensemble-sbn"]["samples"] == 6
    assert rows["mc-dropout"]["samples"] == 3
    assert {row["n"] for row in rows.values()} == {body["slim"]["nll"]["n"]}
    assert body["slim"]["nll"]["n"] == pytest.approx(0.6 * body["data"]["n_test"], abs=5)
    for name, row in rows.items():
        (found,) = row["ood"].values()
        assert found["entropy"]["auroc"]["n"] == row["n"] + 25, name
        assert ("auroc_rise" in found) == (name != "bn")
        assert ("mutual_information" in found) == (row["samples"] > 1)
    assert len({row["set"] for row in body["entropy_cdf"]}) == 2


def test_other_classes_are_another_domain(code, tmp_path, capsys):
    args = ["--arch", code, "--arch-arg", "classes=4", "--data", "digits", "--classes", "0,1,2,3",
            "--limit", "240", *BARE, "--calibrate", "none", "--ood", "other-classes"]  # fmt: skip
    assert call(capsys, *args, "--out", tmp_path / "r")[0] == 0
    row = report_of(tmp_path / "r")["methods"][-1]
    assert list(row["ood"]) == ["other-classes"]


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--batches", "10"], "--batches: 10; it must be at least 50"),
        (["--arch-arg", "norm=group"], "it has 2 GroupNorm"),
        (["--sampler", "lowrang"], "Did you mean 'lowrank'?"),
        (["--ood", "mnistt"], "'mnistt'"),
        (["--ood", "other-classes"], "all classes are in use"),
        (["--batch-size", "5000"], "0 full batches"),
        (["--calibration-split", "half"], "Use cross, test:0.2 or train:0.1"),
        (["--member", "nothing.pt"], "nothing.pt"),
        (["--arch-arg", "classes=4"], "4 outputs"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_refusals_are_one_message_and_exit_2(args, words, code, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "--arch", code, *DATA, *BARE, *args)
    assert status == 2
    assert out == ""
    assert words in " ".join(err.split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_data_is_needed(code, capsys):
    status, _, err = call(capsys, "--arch", code)
    assert status == 2
    assert "--data" in err


def test_a_finished_run_is_replaced_by_force_only(checkpoint, code, tmp_path, capsys):
    out = tmp_path / "r"
    args = [checkpoint, "--arch", code, *DATA, *BARE, "--out", out]
    assert call(capsys, *args)[0] == 0
    first = report_of(out)
    status, _, err = call(capsys, *args, "--seed", "3")
    assert status == 2
    assert "--force" in err
    assert report_of(out) == first
    assert call(capsys, *args, "--seed", "3", "--force")[0] == 0
    assert report_of(out)["provenance"]["seed"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_somebodys_folder_is_never_replaced(checkpoint, code, tmp_path, capsys):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("years")
    args = [checkpoint, "--arch", code, *DATA, *BARE, "--out", tmp_path / "r", "--force"]
    assert call(capsys, *args)[0] == 2
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("broken", ["reload", "virtual"])
def test_a_file_that_disagrees_is_never_delivered(
    broken, checkpoint, code, tmp_path, capsys, monkeypatch
):
    from bnnkit.methods.sbn import StochasticNet
    from bnnkit.run.uncertainty import stochastic

    if broken == "reload":
        real = stochastic.as_stochastic

        def other(loaded):
            network = real(loaded)
            network.draws.add_(0.5)
            return network

        monkeypatch.setattr(stochastic, "as_stochastic", other)
    else:
        virtual = StochasticNet.virtual
        monkeypatch.setattr(
            StochasticNet, "virtual", lambda self, x, noise: virtual(self, x, noise + 0.5)
        )
        monkeypatch.setattr(StochasticNet, "choose", lambda self, x: setattr(
            self, "virtual_rows", 0))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, checkpoint, "--arch", code, *DATA, *BARE, "--out", "r")
    assert status == 4
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# --- with the other commands ----------------------------------------------------------------


def test_after_prune_and_before_prune(checkpoint, code, tmp_path, capsys):
    prune = ["prune", "--data", "digits", "--limit", "240", "--epochs", "0", "--removal-seed", "1",
             "--bench-batch", "1", "--no-onnx", "--no-pt2", "--threads", "1"]  # fmt: skip
    slim, noisy, again = (tmp_path / name for name in ("slim", "noisy", "again"))
    assert main([*prune, str(checkpoint), "--arch", code, "--out", str(slim)]) == 0
    assert call(capsys, slim, *DATA, *BARE, "--out", noisy)[0] == 0
    plan = json.loads((noisy / "plan.json").read_text())
    assert plan["classes"]
    assert plan["method"] == json.loads((slim / "plan.json").read_text())["method"]
    assert plan["noise"]["channels"] == [
        m.num_features for m in bnnkit.load(slim).modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert max(plan["noise"]["channels"]) < 12
    x = torch.cat([x for x, _ in test_inputs().batches(6)])[:6]
    torch.testing.assert_close(bnnkit.load(noisy)(x).sum(1), torch.ones(6))
    assert main([*prune, str(noisy), "--out", str(again)]) == 0
    assert "noise" not in json.loads((again / "plan.json").read_text())
    notes = report_of(again)["model"]["notes"]
    assert any("noise of the file was taken off" in note for note in notes)
    assert not hasattr(bnnkit.load(again), "sampler")


def test_fitted_again_it_has_the_new_noise_alone(run, tmp_path, capsys):
    assert call(capsys, run, *DATA, *BARE, "--sampler", "replay", "--out", tmp_path / "r")[0] == 0
    plan = json.loads((tmp_path / "r" / "plan.json").read_text())
    assert plan["noise"]["sampler"] == "replay"
    again = load_model(ModelSpec(file=str(tmp_path / "r")))
    assert set(again.noise.tensors) == {"draws"}
