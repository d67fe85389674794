"""What a decision costs is what the slim model that it makes is counted to cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnnkit.errors import BnnkitError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.cost import bytes_cost, macs_cost, parameters_cost
from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.graph.rebuild import make_slim
from bnnkit.io.architectures import build_architecture
from bnnkit.run.artefacts import file_bytes

TEN = {"num_classes": 10}
FRESH = {"num_classes": 10, "init_weights": False}
# Architecture, its arguments, the input's size, and the form in which it can be made slim.
QUICK = [
    ("bnnkit:lenet5-caffe", {}, (1, 28, 28), "modules"),
    ("bnnkit:resnet20-cifar", {}, (3, 32, 32), "graph"),
    ("torchvision:squeezenet1_1", TEN, (3, 64, 64), "modules"),
]
SLOW = [
    ("bnnkit:vgg-cifar", {}, (3, 32, 32), "modules"),
    ("torchvision:resnet18", TEN, (3, 64, 64), "modules"),
    ("torchvision:mobilenet_v2", TEN, (3, 64, 64), "modules"),
    ("torchvision:densenet121", TEN, (3, 64, 64), "modules"),
    ("torchvision:vgg11_bn", TEN, (3, 32, 32), "modules"),
    ("torchvision:shufflenet_v2_x0_5", TEN, (3, 64, 64), "graph"),
    ("torchvision:googlenet", FRESH, (3, 64, 64), "modules"),
    ("torchvision:efficientnet_b0", TEN, (3, 64, 64), "modules"),
    ("torchvision:resnext50_32x4d", TEN, (3, 64, 64), "modules"),
    ("torchvision:regnet_y_400mf", TEN, (3, 64, 64), "modules"),
    ("torchvision:convnext_tiny", TEN, (3, 64, 64), "modules"),
    ("torchvision:swin_t", TEN, (3, 64, 64), "modules"),
    ("torchvision:vit_b_16", TEN, (3, 224, 224), "modules"),
]


class Mixed(nn.Module):
    """Grouped and depthwise convolutions, a layer that runs twice, and a linear after flatten."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 24, 3, padding=1, groups=3, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 48, 3, padding=1, groups=24)
        self.twice = nn.Conv2d(48, 48, 1)
        self.pool = nn.AvgPool2d(2)
        self.last = nn.Linear(48 * 16, 5)

    def forward(self, x):
        x = self.depthwise(torch.relu(self.norm(self.grouped(torch.relu(self.first(x))))))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.last(self.pool(x).flatten(1))


def random_keep(structure, seed, share=0.5):
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(structure.n_units, generator=generator)
    return structure.ensure_alive(score < share, score)[0]


def check(model, shape, form, seeds):
    structure = analyse(model, torch.zeros(2, *shape))
    macs, parameters = macs_cost(model, structure), parameters_cost(model, structure)
    assert (macs.unit, parameters.unit) == ("MACs", "parameters")
    size = bytes_cost(model, structure)
    everything = torch.ones(structure.n_units, dtype=torch.bool)
    assert macs.total(everything) == count_macs(model, shape)
    assert parameters.total(everything) == count_parameters(model)
    for seed in seeds:
        keep = random_keep(structure, seed, 0.2 + 0.2 * seed)
        slim = make_slim(model, structure, keep, torch.ones(len(keep)), form=form)
        assert macs.total(keep) == count_macs(slim, shape)
        assert parameters.total(keep) == count_parameters(slim)
        assert size.total(keep) == pytest.approx(file_bytes(slim), rel=0.01)


@pytest.mark.parametrize(("arch", "args", "shape", "form"), QUICK)
def test_total_is_what_the_slim_model_costs(arch, args, shape, form):
    check(build_architecture(arch, args, seed=0), shape, form, [0])


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "args", "shape", "form"), [*QUICK, *SLOW])
def test_total_is_what_the_slim_model_costs_in_all_families(arch, args, shape, form):
    check(build_architecture(arch, args, seed=0), shape, form, range(3))


def test_groups_depthwise_repetition_and_flatten():
    check(Mixed(), (3, 8, 8), "modules", range(4))


@pytest.mark.parametrize(
    "model", [Mixed(), nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))]
)
def test_the_file_is_counted_to_the_byte_at_full_width(model):
    shape = (3, 8, 8) if isinstance(model, Mixed) else (8,)
    structure = analyse(model, torch.zeros(2, *shape))
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    assert bytes_cost(model, structure).total(keep) == file_bytes(model)


@pytest.mark.parametrize("make", [macs_cost, parameters_cost, bytes_cost])
def test_marginal_is_the_difference_that_one_unit_makes(make):
    model = Mixed()
    structure = analyse(model, torch.zeros(2, 3, 8, 8))
    cost = make(model, structure)
    for seed in range(3):
        keep = random_keep(structure, seed, 0.7)
        marginal = cost.marginal(keep)
        for unit in range(structure.n_units):
            without = keep.clone()
            without[unit] = False
            assert float(marginal[unit]) == cost.total(keep) - cost.total(without)


def test_paths_are_the_differences_along_them():
    model = Mixed()
    structure = analyse(model, torch.zeros(2, 3, 8, 8))
    cost = macs_cost(model, structure)
    keep = random_keep(structure, 1, 0.8)
    orders = [c.first + keep[c.units].nonzero().reshape(-1).flip(0) for c in structure.classes] + [
        torch.zeros(0, dtype=torch.long)
    ]
    for order, path in zip(orders, cost.paths(keep, orders), strict=True):
        assert len(path) == len(order)
        after = keep.clone()
        for unit, saved in zip(order.tolist(), path.tolist(), strict=True):
            after[unit] = False
            assert saved == cost.total(keep) - cost.total(after)


def test_attention_is_constant_and_what_it_reads_is_locked():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    structure = analyse(layer, torch.zeros(2, 8, 16))
    cost = macs_cost(layer, structure)
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    assert structure.n_units == 32  # the hidden layer of the perceptron
    assert cost.total(keep) == count_macs(layer, (8, 16))
    assert cost.marginal(keep).tolist() == [2.0 * 8 * 16] * 32


def test_shared_tensors_count_once_as_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.again = self.b

        def forward(self, x):
            return self.c(torch.relu(self.again(torch.relu(self.b(torch.relu(self.a(x)))))))

    check(Tied(), (6,), "modules", range(3))


def test_a_tensor_that_loses_three_axes_is_refused():
    from bnnkit.graph.cost import _product_cost

    structure = analyse(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)),
                        torch.zeros(2, 2))  # fmt: skip
    axes = {i: ("0.weight", 0) for i in range(3)}
    with pytest.raises(BnnkitError, match="more than two axes"):
        _product_cost("MACs", structure, [(1.0, (3, 3, 3), axes)], 0.0)
