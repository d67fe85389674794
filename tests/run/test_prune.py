"""`prune` end to end: judged from its files alone, as a stranger would."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import bnnkit
from bnnkit.errors import ArtefactError, StructureError, UsageError
from bnnkit.io.data import load_data
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig, SbpConfig

DIGITS = DataSpec("digits", limit=400)
RANDOM = PruneConfig(
    train=TrainConfig(epochs=0), removal_seed=1, batches=(1,), threads=(1,)
)  # fmt: skip

TUTORIAL = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 16, 3)
        self.fc1 = nn.Linear(16 * 3 * 3, 30)
        self.fc2 = nn.Linear(30, 10)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 3 * 3)
        return F.log_softmax(self.fc2(self.drop(F.relu(self.fc1(x)))), dim=1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained and pruned net on digits."""
    folder = tmp_path_factory.mktemp("run")
    bnnkit.train(
        ModelSpec(arch="bnnkit:digits-cnn"),
        DataSpec("digits"),
        TrainConfig(epochs=4, batch_size=64, lr=3e-3, threads=1),
        out=folder / "original",
    )
    report = bnnkit.prune(
        folder / "original",
        "digits",
        PruneConfig(
            train=TrainConfig(epochs=6, batch_size=64, lr=3e-3, threads=1),
            sbp=SbpConfig(kl_scale=5.0, noise_lr=3e-2),
            batches=(1,),
        ),
        out=folder / "slim",
        gates=GateOptions(min_mac_ratio=1.5, max_error_rise=5.0),
    )
    return folder, report


def onnx_outputs(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_units_are_closed_and_accuracy_holds(run):
    _, report = run
    assert report.sections["ratios"]["macs"] > 1.5
    assert report.sections["paired"]["error_rise"].value < 5
    assert all(check["passed"] for check in report.sections["checks"])
    assert {row["gate"]: row["verdict"] for row in report.gates}["min-mac-ratio"] == "pass"


def test_loaded_model_equals_the_onnx_file_and_trains(run):
    folder, _ = run
    model = bnnkit.load(folder / "slim")
    data = load_data(DataSpec("digits"))
    x = torch.cat([x for x, _ in data.test.batches(64)])
    with torch.no_grad():
        expected = model(x).numpy()
    got = onnx_outputs(folder / "slim" / "model.onnx", x)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    program = torch.export.load(str(folder / "slim" / "model.pt2")).module()
    assert torch.allclose(program(x), torch.from_numpy(expected), atol=1e-4)
    model.train()
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_loading_needs_no_original(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder / "slim", tmp_path / "moved")
    assert sum(p.numel() for p in bnnkit.load(tmp_path / "moved").parameters()) > 0


def test_report_has_what_its_reader_needs(run):
    folder, _ = run
    body = json.loads((folder / "slim" / "report.json").read_text())
    assert body["slim"]["macs"] < body["original"]["macs"]
    assert body["slim"]["error"]["n"] == body["data"]["n_test"]
    assert len(body["curve"]) == 6
    assert {row["runtime"] for row in body["latency"]} == {"torch", "onnxruntime"}
    assert all(len(c["snr"]) == c["size"] for c in body["classes"])
    html = (folder / "slim" / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert not (folder / "slim" / "checkpoint").exists()


def test_same_seed_same_plan(run, tmp_path):
    folder, _ = run
    config = PruneConfig(
        train=TrainConfig(epochs=2, batch_size=64, threads=1),
        sbp=SbpConfig(kl_scale=20.0, noise_lr=5e-2),
        formats=(), batches=(1,),
    )  # fmt: skip
    for name in "ab":
        bnnkit.prune(folder / "original", DIGITS, config, out=tmp_path / name)
    plans = [(tmp_path / name / "plan.json").read_text() for name in "ab"]
    assert plans[0] == plans[1]


def test_random_removal_on_code_that_holds_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.py").write_text(TUTORIAL)
    spec = ModelSpec(arch=f"{tmp_path / 'net.py'}:Net")
    report = bnnkit.prune(spec, DIGITS, RANDOM, out=tmp_path / "slim")
    plan = json.loads((tmp_path / "slim" / "plan.json").read_text())
    assert plan["form"] == "graph"
    assert report.sections["ratios"]["macs"] > 1.5
    model = bnnkit.load(tmp_path / "slim")
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    got = onnx_outputs(tmp_path / "slim" / "model.onnx", x)
    assert np.abs(got - expected).max() < 1e-4


def test_a_wrong_slim_model_is_never_delivered(tmp_path, monkeypatch):
    import bnnkit.run.artefacts as artefacts

    real = artefacts.write_onnx

    def wrong(module, example, path):
        module = copy.deepcopy(module)
        with torch.no_grad():
            list(module.parameters())[-1].add_(0.01)
        return real(module, example, path)

    monkeypatch.setattr(artefacts, "write_onnx", wrong)
    with pytest.raises(ArtefactError):
        bnnkit.prune(ModelSpec(arch="bnnkit:digits-cnn"), DIGITS, RANDOM, out=tmp_path / "slim")
    assert not (tmp_path / "slim" / "model.safetensors").exists()
    assert not (tmp_path / "slim" / "report.json").exists()


def test_round_to_keeps_friendly_widths(tmp_path):
    report = bnnkit.prune(
        ModelSpec(arch="bnnkit:digits-cnn"),
        DIGITS,
        replace(RANDOM, round_to=8, formats=()),
        out=tmp_path / "slim",
    )
    assert all(c["kept"] % 8 == 0 for c in report.sections["classes"])


def test_excluded_layers_stay_whole(tmp_path):
    report = bnnkit.prune(
        ModelSpec(arch="bnnkit:digits-cnn"),
        DIGITS,
        replace(RANDOM, exclude=("conv1",), formats=()),
        out=tmp_path / "slim",
    )
    assert "conv1" not in {c["name"] for c in report.sections["classes"]}
    assert any(
        lock["name"] == "conv1" and "--exclude" in lock["reason"]
        for lock in report.sections["locked"]
    )


def test_requests_that_cannot_be_met_are_refused_before_any_work(run, tmp_path):
    folder, _ = run
    spec = ModelSpec(arch="bnnkit:digits-cnn")
    with pytest.raises(UsageError, match="finished run"):
        bnnkit.prune(spec, DIGITS, RANDOM, out=folder / "slim")
    with pytest.raises(UsageError, match="not known"):
        bnnkit.prune(spec, DIGITS, replace(RANDOM, method="spb"), out=tmp_path / "x")
    with pytest.raises(UsageError, match="no removable layer matches"):
        bnnkit.prune(spec, DIGITS, replace(RANDOM, include=("nope",)), out=tmp_path / "x")
    with pytest.raises(StructureError, match="no removable channel class"):
        bnnkit.prune(spec, DIGITS, replace(RANDOM, exclude=("**",)), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_dry_run_trains_and_writes_nothing(tmp_path, monkeypatch):
    from bnnkit.run.prune import dry_run

    monkeypatch.chdir(tmp_path)
    report = dry_run(ModelSpec(arch="bnnkit:digits-cnn"), DIGITS)
    assert report.sections["removable"]
    assert report.sections["classes"]
    assert list(tmp_path.iterdir()) == []
