"""The rewritten graph: it trains as the gated model does, moves, copies and replays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.errors import StructureError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.rebuild import make_plan, make_slim, rebuild
from bnnkit.graph.remove import slice_tensors
from bnnkit.graph.rewrite import RewrittenModel
from bnnkit.spec import ModelSpec


class Net(nn.Module):
    """Sizes in code, a padded shortcut, a head that exists only in train mode."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 16, 3, padding=1)
        self.h, self.fc, self.aux = nn.Linear(256, 12), nn.Linear(12, 4), nn.Linear(8, 4)
        self.register_buffer("scale", torch.ones(8, 1, 1), persistent=False)

    def forward(self, x):
        x = F.relu(self.n(self.a(x)) * self.scale)
        y = F.relu(self.b(x) + F.pad(x, (0, 0, 0, 0, 4, 4)))
        z = F.relu(self.h(F.max_pool2d(y, 2).view(-1, 16 * 4 * 4)))
        return (self.fc(z), self.aux(x.mean((2, 3)))) if self.training else self.fc(z)


@pytest.fixture
def parts():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    structure = analyse(model, torch.zeros(2, 3, 8, 8))
    generator = torch.Generator().manual_seed(1)
    theta = torch.rand(structure.n_units, generator=generator) + 0.1
    keep = torch.rand(structure.n_units, generator=generator) < 0.5
    return model, structure, structure.ensure_alive(keep, theta)[0], theta


def test_train_mode_is_the_gated_model_too(parts):
    """Batch statistics, both heads, and the gradients of what is left."""
    model, structure, keep, theta = parts
    gated = copy.deepcopy(model).double().train()
    slim = make_slim(gated, structure, keep, theta.double(), form="graph")
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    with attach(gated, structure, FixedGates((theta * keep).double())):
        expected = gated(x)
    got = slim(x)
    assert isinstance(got, tuple)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    sum(part.sum() for part in got).backward()
    sum(part.sum() for part in expected).backward()
    torch.testing.assert_close(slim.fc.bias.grad, gated.fc.bias.grad)
    kept = structure.kept_indices(keep)["a.weight", 0]
    torch.testing.assert_close(slim.a.weight.grad, gated.a.weight.grad[kept])
    torch.testing.assert_close(slim.n.running_mean, gated.n.running_mean[kept])


def test_names_modes_and_copies(parts):
    model, structure, keep, theta = parts
    model.n.eval()
    slim = make_slim(model, structure, keep, theta, form="graph")
    assert isinstance(slim, RewrittenModel)
    assert list(slim.state_dict()) == list(model.state_dict())
    assert slim.training
    assert not slim.n.training  # frozen by its owner
    assert model.a.out_channels == 8  # the original is untouched
    x = torch.randn(3, 3, 8, 8)
    twin = copy.deepcopy(slim.eval())
    with torch.no_grad():
        twin.fc.bias += 1
        torch.testing.assert_close(twin(x), slim(x) + 1)
        assert slim(x[:1]).shape == (1, 4)


def test_a_plan_replays_on_fresh_weights(parts):
    model, structure, keep, theta = parts
    slim = make_slim(model, structure, keep, theta, form="graph").eval()
    spec = ModelSpec(arch="x:y", input_shape=(3, 8, 8))
    plan = make_plan(structure, keep, theta, spec, form="graph", method="random")
    again = rebuild(Net(), plan).eval()
    again.load_state_dict(slim.state_dict())
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(again(x), slim(x))


def test_a_plan_of_another_architecture_is_refused(parts):
    _, structure, keep, theta = parts
    spec = ModelSpec(arch="x:y", input_shape=(3, 8, 8))
    for form in ("modules", "graph"):
        plan = make_plan(structure, keep, theta, spec, form=form, method="random")
        other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        with pytest.raises(StructureError, match="--arch"):
            rebuild(other, plan)


def test_shared_tensors_stay_shared():
    a, b = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    b.weight = a.weight
    b.register_buffer("running_mean", a.running_mean)
    model = nn.Sequential(a, b)
    kept = torch.tensor([1, 4])
    names = ("weight", "bias", "running_mean", "running_var")
    slice_tensors(model, {(f"{i}.{n}", 0): kept for i in (0, 1) for n in names})
    assert a.weight is b.weight
    assert a.running_mean is b.running_mean
    assert a.weight.shape == b.running_mean.shape == (2,)
    assert (a.num_features, b.num_features) == (2, 2)
    assert isinstance(b.weight, nn.Parameter)


def test_sizes_of_standard_layers_follow():
    depthwise = nn.Conv2d(4, 8, 3, groups=4)
    model = nn.ModuleDict({"d": depthwise, "p": nn.PReLU(4), "l": nn.Linear(4, 6)})
    kept, wide = torch.tensor([0, 2]), torch.tensor([0, 1, 4, 5])
    slice_tensors(
        model,
        {("d.weight", 0): wide, ("d.bias", 0): wide, ("p.weight", 0): kept, ("l.weight", 1): kept},
    )
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (2, 4, 2)
    assert model["p"].num_parameters == 2
    assert (model["l"].in_features, model["l"].out_features) == (2, 6)
    assert depthwise(torch.zeros(1, 2, 5, 5)).shape == (1, 4, 3, 3)
