"""Counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.count import costs, count_macs, count_parameters
from bnnkit.graph.rebuild import make_slim
from bnnkit.zoo import ZOO


def test_a_net_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    rows = {c.name: c for c in costs(net, (3, 8, 8))}
    assert {n: c.macs for n, c in rows.items()} == {
        "0": 8 * 3 * 9 * 64, "3": 8 * 9 * 16, "5": 1280}  # fmt: skip
    assert {n: c.parameters for n, c in rows.items()} == {"0": 216, "3": 80, "5": 1290}
    assert rows["3"].channels == (8, 8)
    assert rows["5"].kind == "Linear"
    assert count_macs(net, (3, 8, 8)) == sum(c.macs for c in rows.values())
    assert count_parameters(net) == 216 + 16 + 80 + 1290


def test_a_shared_layer_is_counted_as_often_as_it_runs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x))

    assert count_macs(Twice(), (4,)) == 32
    assert count_parameters(Twice()) == 20


def test_counting_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout()).train().double()
    net[1].eval()
    before = net[1].running_mean.clone()
    count_macs(net, (1, 4, 4))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert torch.equal(net[1].running_mean, before)


def test_a_rewritten_net_is_counted_by_layer():
    model = ZOO["resnet20-cifar"]()
    structure = analyse(model, torch.zeros(2, 3, 32, 32))
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    branch = next(c for c in structure.classes if c.name == "layer1.0.conv1")
    keep[branch.first : branch.first + 10] = False
    slim = make_slim(model, structure, keep, torch.ones(len(keep)), form="graph")
    rows = {c.name: c.macs for c in costs(slim, (3, 32, 32))}
    full = {c.name: c.macs for c in costs(model, (3, 32, 32))}
    assert rows["layer1.0.conv1"] * 16 == full["layer1.0.conv1"] * 6
    assert rows["layer1.0.conv2"] * 16 == full["layer1.0.conv2"] * 6
    assert rows["layer2.0.conv1"] == full["layer2.0.conv1"]


def test_a_transformer_layer_is_counted_though_torch_could_fuse_it():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    tokens = 8
    linear = tokens * (3 * 16 * 16 + 16 * 16 + 2 * 16 * 32)
    assert count_macs(layer, (tokens, 16)) >= linear
    assert torch.backends.mha.get_fastpath_enabled()
