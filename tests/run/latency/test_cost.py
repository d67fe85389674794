"""Measuring: the right layers at the right sizes, and a sum that is the whole model."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from bnnkit.errors import StructureError, UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.io.export import LAYER_COPIES, write_layer_onnx
from bnnkit.io.sessions import OnnxModel
from bnnkit.run.latency.cost import calibrate
from bnnkit.run.latency.layer_probe import Geometry, Probe, observe
from bnnkit.run.latency.table import LatencyCost, LatencyTable
from bnnkit.run.latency.timing import time_interleaved


class Mixed(nn.Module):
    """Grouped, depthwise, twice used, and a linear layer on tokens."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, stride=2, padding="valid")
        self.grouped = nn.Conv2d(12, 24, 3, padding="same", groups=3, bias=False)
        self.depthwise = nn.Conv2d(24, 48, 3, padding=1, groups=24)
        self.twice = nn.Conv2d(48, 48, 1)
        self.tokens = nn.Linear(48, 20)
        self.last = nn.Linear(20, 5)

    def forward(self, x):
        x = torch.relu(self.depthwise(torch.relu(self.grouped(torch.relu(self.first(x))))))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.last(torch.relu(self.tokens(x.flatten(2).mT))).mean(1)


SHAPE = (3, 9, 9)


def test_layers_are_seen_at_their_sizes():
    uses = observe(Mixed(), SHAPE)
    assert list(uses) == ["first", "grouped", "depthwise", "twice", "tokens", "last"]
    assert [use.calls for use in uses.values()] == [1, 1, 1, 2, 1, 1]
    assert [use.positions for use in uses.values()] == [16, 16, 16, 32, 16, 16]
    assert uses["grouped"].geometry.into == 4
    assert uses["depthwise"].geometry.depthwise
    assert uses["tokens"].geometry.shape == (16,)


@pytest.mark.parametrize("name", ["first", "grouped", "depthwise", "twice", "tokens", "last"])
def test_a_layer_is_built_at_other_widths(name):
    geometry = observe(Mixed(), SHAPE)[name].geometry
    generator = torch.Generator().manual_seed(0)
    for out, into in [(geometry.out, geometry.into), (12, geometry.into), (6, 1)]:
        layer = geometry.build(out, into, generator)
        assert layer.weight.shape[:2] == (out, into)
        x = geometry.input_of(layer, 2, generator)
        y = layer(x)
        assert y.shape[1] == out
        assert torch.isfinite(y).all()


def test_no_layer_is_refused():
    with pytest.raises(StructureError, match="nothing to measure"):
        observe(nn.ReLU(), (3,))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (6,)),
        (nn.Linear(6, 5, bias=False), (6,)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2), (4, 9, 8)),
        (nn.Conv2d(4, 4, 4, padding="same", bias=False), (4, 7, 7)),
        (nn.Conv1d(3, 5, 3, padding=1), (3, 8)),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    ],
)
def test_a_layer_under_onnxruntime_is_the_same_layer(layer, shape, tmp_path):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    got = OnnxModel(write_layer_onnx(layer, x, tmp_path / "layer.onnx"), threads=1)(x)
    total = 0
    for i in range(LAYER_COPIES):
        rolled = copy.deepcopy(layer)
        for parameter in rolled.parameters():
            parameter.data = parameter.data.roll(i, 0)
        total = total + rolled(x)
    torch.testing.assert_close(got, total[:1].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_calibration_adds_up_to_the_whole_model(runtime):
    model = Mixed().train()
    structure = analyse(model, torch.zeros(2, *SHAPE))
    cost = calibrate(model, structure, SHAPE, runtime=runtime, batch=2, budget_seconds=0.1)
    assert model.training
    made = cost.table
    everything = torch.ones(structure.n_units, dtype=torch.bool)
    assert cost.total(everything) == pytest.approx(made.whole_ms, rel=1e-9)
    assert (made.runtime, made.batch, made.threads) == (runtime, 2, 1)
    by_name = {use.name: made.times[use.times] for use in made.layers}
    assert by_name["first"].into == (3,)
    assert by_name["last"].out == (5,)
    assert len(by_name["twice"].out) > 3
    # whole groups only: three of the grouped layer, two outputs a group of the depthwise one
    assert {w % 3 for w in by_name["grouped"].out} == {0}
    assert {w % 2 for w in by_name["depthwise"].out} == {0}
    assert all(ms > 0 for times in made.times for row in times.ms for ms in row)
    least, _ = structure.ensure_alive(torch.zeros_like(everything), torch.rand(len(everything)))
    again = LatencyCost(LatencyTable.from_json(made.to_json()), structure)
    assert again.total(least) == cost.total(least)


def test_more_time_measures_more_widths():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
                          nn.Linear(64, 2))  # fmt: skip
    structure = analyse(model, torch.zeros(2, 64))
    few, many = (
        calibrate(model, structure, (64,), runtime="torch", budget_seconds=seconds).table
        for seconds in (0.0, 60.0)
    )
    assert len(few.times[0].out) < len(many.times[0].out)
    for made in (few, many):
        assert {w % 8 for w in made.times[0].out} >= {0, 4, 7}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"runtime": "onnx"}, "onnxruntime"), ({"device": "cuda"}, "CPU only")],
)
def test_what_cannot_be_measured_is_refused(options, said):
    model = nn.Linear(2, 2)
    structure = analyse(model, torch.zeros(2, 2))
    with pytest.raises(UsageError, match=said):
        calibrate(model, structure, (2,), **options)


def test_own_time_does_not_count_waiting():
    timings = time_interleaved(
        {"waits": lambda: time.sleep(0.002)}, min_rounds=3, min_seconds=0, warmup=1,
        max_seconds=0.1, own=True,
    )  # fmt: skip
    assert timings["waits"].median < 1


def test_layers_on_cuda_are_timed_there():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = Mixed()
    structure = analyse(model, torch.zeros(2, *SHAPE))
    cost = calibrate(model, structure, SHAPE, runtime="torch", device="cuda", budget_seconds=1)
    assert cost.total(torch.ones(structure.n_units)) == pytest.approx(cost.table.whole_ms)


def test_a_probe_shares_nothing_between_calls():
    probe = Probe("torch", "cpu", 1, torch.Generator().manual_seed(0))
    wanted = [(Geometry(nn.Linear, 4, 4, ()), 4, 4), (Geometry(nn.Linear, 4, 4, ()), 2, 3)]
    with probe.calls(wanted, 5) as calls:
        assert [call().shape for call in calls] == [(5, 4), (5, 2)]
