"""Folded gates give the gated function, also where readers are grouped."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.fold import fold

NETS = {
    "padded": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3, padding=1), nn.Flatten(),
        nn.Linear(144, 3)),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(),
        nn.Linear(64, 3)),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(48, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_fold_is_the_gated_function(name):
    net = NETS[name]().double().eval()
    structure = analyse(net.float(), torch.zeros(2, 1, 8, 8))
    net.double()
    theta = torch.rand(structure.n_units, dtype=torch.float64)
    theta[::3] = 0
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    folded = copy.deepcopy(net)
    fold(folded, structure, theta)
    with attach(net, structure, FixedGates(theta)):
        torch.testing.assert_close(folded(x), net(x), rtol=1e-12, atol=1e-12)
    for (key, a), b in zip(net.named_parameters(), folded.parameters(), strict=True):
        owner = key.rpartition(".")[0]
        if key.endswith("bias") or owner not in structure.reads:
            assert torch.equal(a, b)  # nothing but the readers' input weights


def test_ones_change_nothing():
    net = NETS["grouped"]()
    structure = analyse(net, torch.zeros(2, 1, 8, 8))
    before = copy.deepcopy(net.state_dict())
    fold(net, structure, torch.ones(structure.n_units))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
