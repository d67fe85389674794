"""The gate gradients of each example, against autograd one example at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.methods.taylor import TaylorScores
from bnnkit.zoo import ZOO


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        return self.head(torch.relu(x + self.b(x)).mean((2, 3)))


def batch(count=6, shape=(1, 5, 5), classes=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *shape, generator=generator)
    return x, torch.randint(classes, (count,), generator=generator)


def test_scores_are_mean_squared_gate_gradients():
    torch.manual_seed(0)
    model = Net()
    structure = analyse(model, torch.zeros(2, 1, 5, 5))
    x, y = batch()
    taylor = TaylorScores(structure)
    taylor.accumulate(model, x[:4], y[:4])
    taylor.accumulate(model, x[4:], y[4:])
    expected = torch.zeros(structure.n_units)
    model.eval()
    for i in range(len(x)):
        gates = torch.ones(structure.n_units, requires_grad=True)
        with attach(model, structure, FixedGates(gates)):
            loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        expected += torch.autograd.grad(loss, gates)[0].square() / len(x)
    torch.testing.assert_close(taylor.scores(), expected, rtol=1e-4, atol=1e-9)


def test_a_gradient_is_what_closing_a_little_changes():
    torch.manual_seed(0)
    model = Net().double().eval()
    structure = analyse(Net(), torch.zeros(2, 1, 5, 5))
    x, y = batch(1)
    x = x.double()
    taylor = TaylorScores(structure)
    taylor.accumulate(model, x, y)
    for unit in range(structure.n_units):
        values = []
        for step in (-1e-5, 1e-5):
            gates = torch.ones(structure.n_units, dtype=torch.float64)
            gates[unit] += step
            with attach(model, structure, FixedGates(gates)), torch.no_grad():
                values.append(float(F.cross_entropy(model(x), y)))
        slope = (values[1] - values[0]) / 2e-5
        assert float(taylor.scores()[unit]) == pytest.approx(slope**2, rel=1e-3, abs=1e-10)


def test_the_model_is_left_as_it_was():
    model = Net().train()
    structure = analyse(model, torch.zeros(2, 1, 5, 5))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    TaylorScores(structure).accumulate(model, *batch())
    assert model.training
    assert model.norm.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model._forward_pre_hooks
    assert not model.a._forward_pre_hooks


def test_channels_that_the_loss_does_not_see_score_lowest():
    torch.manual_seed(0)
    model = ZOO["lenet5-caffe"]()
    structure = analyse(model, torch.zeros(2, 1, 28, 28))
    first = structure.classes[0]
    with torch.no_grad():
        model.conv2.weight[:, 5] = 0
    taylor = TaylorScores(structure)
    taylor.accumulate(model, *batch(8, (1, 28, 28), 10))
    scores = taylor.scores()[first.units]
    assert float(scores[5]) == 0
    assert int((scores > 0).sum()) == first.size - 1


def test_no_batch_gives_no_number():
    structure = analyse(Net(), torch.zeros(2, 1, 5, 5))
    assert bool(TaylorScores(structure).scores().isnan().all())
