"""`bench`: one table for all forms, the first model the reference of every row."""

import pytest
import torch
from torch import nn

from bnnkit.errors import DataError, UsageError
from bnnkit.io.export import write_onnx, write_pt2
from bnnkit.io.models import load_model
from bnnkit.run.bench import MIXED, bench
from bnnkit.run.reporting.digest import latency_table
from bnnkit.spec import ModelSpec

QUICK = {"device": "cpu", "seconds": 0.1}


class Slow(nn.Module):
    """Does the work of `Quick` many times over."""

    def __init__(self, times=200):
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = self.fc(x)
        return x


class Quick(Slow):
    def __init__(self):
        super().__init__(times=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    module = load_model(ModelSpec(arch="bnnkit:digits-cnn")).module
    x = torch.randn(2, 1, 8, 8)
    write_onnx(module, x, folder / "m.onnx")
    write_pt2(module, x, folder / "m.pt2")
    return folder


def test_rows_are_threads_times_batches_with_the_first_as_reference():
    models = [Slow(), Quick()]
    report = bench(models, input_shape=(64,), batches=(1, 4), threads=(1, 2), **QUICK)
    rows = report.sections["latency"]
    assert [(r["threads"], r["batch"]) for r in rows] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    for row in rows:
        assert row["runtime"] == "torch"
        assert [m["name"] for m in row["models"]] == ["Slow", "Quick"]
        assert row["models"][0]["speedup"].value == 1
        assert row["models"][1]["speedup"].value > 3
        assert row["models"][0]["latency"].unit == "ms"


def test_forms_share_one_group_and_are_told_apart_by_name(files):
    fresh = ModelSpec(arch="bnnkit:digits-cnn")
    report = bench([fresh, files / "m.onnx", files / "m.pt2"], batches=(1,), **QUICK)
    (row,) = report.sections["latency"]
    assert row["runtime"] == MIXED
    assert [m["name"] for m in row["models"]] == [
        "bnnkit:digits-cnn (torch)",
        "m.onnx (onnxruntime)",
        "m.pt2 (torch.export)",
    ]
    assert report.sections["input_shape"] == [1, 8, 8]
    assert [m["form"] for m in report.sections["models"]] == ["torch", "onnx", "pt2"]
    shown = latency_table(report.to_dict())
    assert [cells[4] == "reference" for cells in shown.rows] == [True, False, False]


def test_the_same_model_twice_has_two_names(files):
    report = bench([files / "m.onnx", files / "m.onnx"], batches=(1,), **QUICK)
    (row,) = report.sections["latency"]
    assert row["runtime"] == "onnxruntime"
    assert [m["name"] for m in row["models"]] == ["m.onnx", "m.onnx #2"]


def test_what_cannot_be_timed_is_refused(files):
    with pytest.raises(UsageError, match="--input-shape"):
        bench([Quick()], **QUICK)
    with pytest.raises(UsageError, match="no model"):
        bench([])
    other = ModelSpec(arch="bnnkit:lenet5-caffe")
    with pytest.raises(UsageError, match=r"1x28x28.*1x8x8"):
        bench([other, files / "m.onnx"], **QUICK)
    with pytest.raises(DataError, match=r"float32 \[\*, 1, 8, 8\]"):
        bench([files / "m.onnx"], input_shape=(1, 9, 9), **QUICK)
    with pytest.raises(DataError, match=r"inputs of \[63\]"):
        bench([Quick()], input_shape=(63,), **QUICK)
