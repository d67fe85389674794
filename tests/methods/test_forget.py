"""Noise as large as the weights, and none in what is no matrix."""

import copy

import pytest
import torch
from torch import nn

from bnnkit.methods.forget import disturb


def test_each_matrix_gets_noise_of_its_own_deviation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 5), nn.BatchNorm2d(40), nn.Flatten(), nn.Linear(90, 50))
    with torch.no_grad():
        model[3].weight.mul_(20)
    before = copy.deepcopy(model)
    disturb(model, torch.Generator().manual_seed(1))
    for name, parameter in model.named_parameters():
        added = parameter - before.get_parameter(name)
        if parameter.dim() == 1:
            assert not added.any()
            continue
        deviation = float(before.get_parameter(name).detach().std())
        assert float(added.detach().std()) == pytest.approx(deviation, rel=0.05)
        assert float(added.detach().mean()) == pytest.approx(0, abs=0.05 * deviation)


def test_the_seed_decides():
    nets = [nn.Linear(4, 4) for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        nn.init.eye_(net.weight)
        disturb(net, torch.Generator().manual_seed(seed))
    assert torch.equal(nets[0].weight, nets[1].weight)
    assert not torch.equal(nets[0].weight, nets[2].weight)
