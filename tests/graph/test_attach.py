"""Gates before readers: tied, per example, by keyword, and gone after detaching."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach


class Tied(nn.Module):
    """A stream of 4 features that three layers read, one of them by keyword."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.p, self.q = (
            nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2))  # fmt: skip

    def forward(self, x):
        s = self.stem(x)
        s = s + torch.tanh(self.inner(s))
        return self.p(s) + self.q(input=s.tanh())


class Recorder:
    """Gates per example, drawn once a forward pass."""

    folded = False

    def __init__(self, units):
        self.units, self.begun, self.drawn = units, [], None

    def begin(self, batch):
        self.begun.append(batch)
        self.drawn = torch.rand(batch, self.units, generator=torch.Generator().manual_seed(1))

    def theta(self, first, size):
        return self.drawn[:, first : first + size]

    def multiply(self, x, theta):
        return x * theta


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tied()


def by_hand(m, x, t):
    s = m.stem(x)
    s = s + torch.tanh(m.inner(s * t))
    return m.p(s * t) + m.q(s.tanh() * t)


def test_one_gate_at_every_reader(model):
    structure = analyse(model, torch.zeros(2, 3))
    (only,) = structure.classes
    assert only.readers == ("inner", "p", "q")
    assert only.writers == ("stem", "inner")
    theta, x = torch.tensor([0.2, 0.0, 1.0, 0.7]), torch.randn(5, 3)
    plain = model(x)
    with attach(model, structure, FixedGates(theta)):
        gated = model(x)
    torch.testing.assert_close(gated, by_hand(model, x, theta))
    assert not torch.allclose(gated, plain)
    assert torch.equal(model(x), plain)


def test_gates_per_example(model):
    structure = analyse(model, torch.zeros(2, 3))
    gates, x = Recorder(4), torch.randn(5, 3)
    with attach(model, structure, gates):
        got = model(x=x)
    assert gates.begun == [5]
    torch.testing.assert_close(got, by_hand(model, x, gates.drawn))


def test_gates_per_example_on_images_and_sequences():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(self.b(self.a(x)).flatten(2).transpose(1, 2))

    net, x = Net(), torch.randn(3, 1, 5, 5)
    structure = analyse(net, torch.zeros(2, 1, 5, 5))
    gates = Recorder(10)
    with attach(net, structure, gates):
        got = net(x)
    t = gates.drawn
    h = net.b(net.a(x) * t[:, :4, None, None]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, net.fc(h * t[:, None, 4:]))


def test_parts_of_several_classes_side_by_side():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(9, 2)

        def forward(self, x):
            return self.c(torch.cat([self.b(x), x, self.a(x)], 1))

    net, x = Net(), torch.randn(4, 3)
    structure = analyse(net, torch.zeros(2, 3))
    theta = {"a": torch.tensor([0.5, 0.0]), "b": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    with attach(net, structure, FixedGates(torch.cat([theta[c.name] for c in structure.classes]))):
        got = net(x)
    parts = [net.b(x) * theta["b"], x, net.a(x) * theta["a"]]
    torch.testing.assert_close(got, net.c(torch.cat(parts, 1)))


def test_gradients_reach_the_gates(model):
    structure = analyse(model, torch.zeros(2, 3))
    theta = torch.ones(4, requires_grad=True)
    with attach(model, structure, FixedGates(theta)):
        model(torch.randn(5, 3)).sum().backward()
    assert bool((theta.grad != 0).all())


class Shared:
    """One gate a unit for the whole batch, multiplied into weights or into activations."""

    def __init__(self, units, folded):
        generator = torch.Generator().manual_seed(2)
        self.theta_ = torch.rand(units, generator=generator, dtype=torch.float64).requires_grad_()
        self.folded = folded

    def begin(self, batch):
        pass

    def theta(self, first, size):
        return self.theta_[first : first + size]

    def multiply(self, x, theta):
        return x * theta


class Readers(nn.Module):
    """Readers of every kind: plain, strided, grouped, two of one class, linear after flatten."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.c = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.d = nn.Conv2d(4, 3, 1)
        self.out = nn.Linear(3 * 16, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x) + self.c(x))
        return self.out(torch.relu(self.d(x)).flatten(1))


def test_gates_in_the_weights_are_gates_on_the_activations():
    torch.manual_seed(0)
    net = Readers().double()
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    structure = analyse(net, x)
    assert "c" in structure.reads  # grouped: multiplied as before
    found = []
    for folded in (False, True):
        gates = Shared(structure.n_units, folded)
        with attach(net, structure, gates):
            loss = net(x).pow(2).sum()
        names = list(dict(net.named_parameters()))
        gradients = torch.autograd.grad(loss, [gates.theta_, *net.parameters()])
        found.append((loss, *gradients))
    assert names[0] == "a.weight"
    for plain, folded in zip(*found, strict=True):
        torch.testing.assert_close(plain, folded, rtol=1e-12, atol=1e-12)


def test_a_failed_forward_pass_leaves_the_weights_their_own():
    net = Readers()
    structure = analyse(net, torch.randn(2, 2, 8, 8))
    before = dict(net.named_parameters())
    with attach(net, structure, Shared(structure.n_units, True)):
        net.b.register_forward_pre_hook(lambda *_: (torch.zeros(1, 3, 8, 8),))  # a wrong shape
        with pytest.raises(RuntimeError):
            net(torch.randn(2, 2, 8, 8))
    assert dict(net.named_parameters()).keys() == before.keys()
    assert all(value is before[name] for name, value in net.named_parameters())
