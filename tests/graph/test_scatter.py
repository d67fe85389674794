"""A slim model that was trained further is still the gated full one, once it is written back."""

import copy

import pytest
import torch

from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.scatter import write_back
from bnnkit.graph.settle import slim_exactly
from bnnkit.io.architectures import build_architecture

# Architecture, its arguments, the input's size; the second needs its graph rewritten.
NETS = [
    ("bnnkit:lenet5-caffe", {}, (1, 28, 28)),
    ("bnnkit:resnet20-cifar", {}, (3, 32, 32)),
    ("torchvision:mobilenet_v2", {"num_classes": 10}, (3, 64, 64)),
    ("torchvision:densenet121", {"num_classes": 10}, (3, 64, 64)),
]


def decided(arch, args, shape):
    torch.manual_seed(0)
    model = build_architecture(arch, args).double().eval()
    structure = analyse(model, torch.randn(2, *shape, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    score = torch.rand(structure.n_units, generator=generator)
    keep, _ = structure.ensure_alive(score > 0.4, score)
    theta = torch.rand(structure.n_units, generator=generator).double() + 0.5
    x = torch.randn(3, *shape, dtype=torch.float64)
    return model, structure, keep, x, slim_exactly(model, structure, keep, theta, x).model


@pytest.mark.parametrize(("arch", "args", "shape"), NETS)
def test_the_written_back_model_equals_the_trained_slim_one(arch, args, shape):
    model, structure, keep, x, slim = decided(arch, args, shape)
    slim.train()
    optimiser = torch.optim.SGD(slim.parameters(), lr=1e-3)
    slim(x).square().mean().backward()
    optimiser.step()
    full = copy.deepcopy(model)
    write_back(full, slim, structure.kept_indices(keep))
    slim.eval()
    with torch.no_grad(), attach(full, structure, FixedGates(keep.double())):
        gated = full(x)
    assert torch.allclose(gated, slim(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("arch", "args", "shape"), NETS)
def test_the_narrowed_structure_is_that_of_the_slim_model(arch, args, shape):
    _, structure, keep, x, slim = decided(arch, args, shape)
    narrow, found = structure.narrowed(keep), analyse(slim.eval(), x[:2])
    assert [(c.name, c.first, c.size) for c in narrow.classes] == [
        (c.name, c.first, c.size) for c in found.classes
    ]
    assert narrow.slots.keys() == found.slots.keys()
    assert all(torch.equal(narrow.slots[k], found.slots[k]) for k in found.slots)
    assert all(torch.equal(narrow.reads[k], found.reads[k]) for k in found.reads)
