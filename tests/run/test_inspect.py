"""What `inspect` says of files and of models."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from bnnkit.errors import FileRefusedError, UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.rebuild import make_plan
from bnnkit.io.contents import file_contents
from bnnkit.io.export import write_safetensors
from bnnkit.run.describe import class_rows, layer_rows, most_removable
from bnnkit.run.inspect import inspect
from bnnkit.spec import ModelSpec
from bnnkit.zoo import ZOO

LENET = ModelSpec(arch="bnnkit:lenet5-caffe", input_shape=(1, 28, 28))


class Payload:
    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


def test_lenet_has_the_classes_of_its_definition():
    body = inspect(LENET).to_dict()
    assert [(c["name"], c["size"], c["readers"]) for c in body["classes"]] == [
        ("conv1", 20, ["conv2"]), ("conv2", 50, ["fc1"]), ("fc1", 500, ["fc2"])]  # fmt: skip
    assert body["locked"] == [{"name": "fc2", "channels": 10, "reason": "the model's output"}]
    macs = {row["name"]: row["macs_before"] for row in body["layers"]}
    assert macs == {
        "conv1": 20 * 25 * 24 * 24, "conv2": 50 * 20 * 25 * 8 * 8, "fc1": 800 * 500, "fc2": 5000,
    }  # fmt: skip
    # The least: one channel of each, so 26 + 26 + 17 + 20 numbers.
    assert body["removable"]["parameters"] == {
        "before": 431080, "least": 89, "share": pytest.approx(1 - 89 / 431080)}  # fmt: skip
    assert body["removable"]["macs"]["least"] == 25 * 576 + 25 * 64 + 16 + 10
    assert body["input_shape"] == [1, 28, 28]


def test_rows_after_a_decision():
    model = ZOO["lenet5-caffe"]()
    structure = analyse(model, torch.zeros(2, 1, 28, 28))
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    keep[:17] = False
    snr = torch.arange(float(structure.n_units))
    rows = class_rows(structure, keep, {"snr": snr}, torch.ones(structure.n_units))
    assert [row["kept"] for row in rows] == [3, 50, 500]
    assert rows[1]["snr"] == list(range(20, 70))
    assert rows[1]["theta"] == [1.0] * 50
    layers = layer_rows(model, model, (1, 28, 28))
    assert layers[0]["before"] == layers[0]["after"] == [20, 1]


def test_a_model_without_classes_saves_nothing():
    model = torch.nn.Linear(4, 3)
    structure = analyse(model, torch.zeros(2, 4))
    saved = most_removable(model, structure)
    assert saved["parameters"] == {"before": 15, "least": 15, "share": 0.0}
    assert saved["macs"] == {"before": 12, "least": 12, "share": 0.0}


def test_a_training_checkpoint(tmp_path):
    state = {f"module.{k}": v for k, v in ZOO["lenet5-caffe"]().state_dict().items()}
    path = tmp_path / "net.pt"
    torch.save({"model": state, "ema": state, "epoch": 3}, path)
    body = inspect(str(path)).to_dict()
    found = body["file"]
    assert found["kind"] == "torch-zip"
    assert found["bytes"] == path.stat().st_size
    assert [w["place"] for w in found["weights"]] == ["model", "ema"]
    assert found["weights"][0]["prefix"] == "module."
    assert found["weights"][0]["numbers"] == 431080
    assert found["weights"][0]["tensors"][0] == {
        "name": "module.conv1.weight", "shape": [20, 1, 5, 5], "dtype": "float32"}  # fmt: skip
    assert "collections.OrderedDict" not in found["classes"]
    assert "classes" not in body


def test_safetensors_are_read_from_their_header(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.int64)}, path)
    weights = file_contents(path)[0]["weights"][0]
    assert weights["dtypes"] == {"float32": 1, "int64": 1}
    assert {t["name"]: t["shape"] for t in weights["tensors"]} == {"a": [2, 3], "b": [4]}


def test_a_slim_file_tells_its_plan_and_structure(tmp_path):
    model = ZOO["lenet5-caffe"]()
    structure = analyse(model, torch.zeros(2, 1, 28, 28))
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    keep[:15] = False
    plan = make_plan(
        structure, keep, torch.ones(structure.n_units), LENET, form="modules", method="random"
    )
    from bnnkit.graph.rebuild import rebuild

    path = tmp_path / "model.safetensors"
    write_safetensors(rebuild(model, plan), path, plan)
    body = inspect(str(path)).to_dict()
    assert body["file"]["plan"] == {
        "arch": "bnnkit:lenet5-caffe", "arch_args": {}, "form": "modules", "method": "random",
        "classes": 3, "units": 570, "kept": 555,
    }  # fmt: skip
    assert [c["size"] for c in body["classes"]] == [5, 50, 500]


def test_a_hostile_pickle_is_described_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt"
    torch.save({"weight": torch.zeros(2), "x": Payload()}, path)
    found = inspect(str(path)).to_dict()["file"]
    assert any(name.endswith(".system") for name in found["dangerous"])
    assert found["weights"] == []
    assert found["notes"]
    assert not (tmp_path / "ran").exists()


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="neither a file"):
        inspect(ModelSpec())
    with pytest.raises(FileRefusedError):
        inspect(str(tmp_path / "absent.pt"))
    broken = tmp_path / "broken.pt"
    broken.write_bytes(pickle.dumps(1))
    with pytest.raises(FileRefusedError):
        inspect(str(broken))


def test_own_code_needs_an_input_shape(tmp_path):
    source = tmp_path / "net.py"
    source.write_text("import torch\ndef build():\n    return torch.nn.Linear(4, 2)\n")
    with pytest.raises(UsageError, match="--input-shape"):
        inspect(ModelSpec(arch=f"{source}:build"))
    body = inspect(ModelSpec(arch=f"{source}:build", input_shape=(4,))).to_dict()
    assert body["removable"]["units"] == 0
    assert body["locked"][0]["reason"] == "the model's output"
