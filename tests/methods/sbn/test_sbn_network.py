"""Virtual batch, loop and a naive loop with forward hooks agree, whatever the net looks like."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bnnkit.errors import StructureError
from bnnkit.io.architectures import build_architecture
from bnnkit.layers.statistics_samplers import Factorised
from bnnkit.layers.stochastic_batch_norm import FoldableLayer
from bnnkit.methods.sbn import StochasticNet


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def normalised(module, statistics, x):
    """Normalise as a batch-norm layer does, and do what timm's also does."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean, log_deviation = (t.reshape(shape) for t in statistics.chunk(2))
    y = (x - mean) / log_deviation.exp()
    if module.weight is not None:
        y = y * module.weight.reshape(shape) + module.bias.reshape(shape)
    return module.act(module.drop(y)) if hasattr(module, "act") else y


def prepare(net, x):
    """Make a net as if it were trained: statistics of its data, and affine maps."""
    g = source(5)
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    for m in norms:
        m.momentum = 1.0
        if m.weight is not None:
            m.weight.data.uniform_(0.5, 1.5, generator=g)
            m.bias.data.normal_(0, 0.3, generator=g)
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def trace(net, x):
    """Return use, channels, running mean and log deviation of each batch norm, in order."""
    uses, handles = [], []
    for name, m in net.named_modules():
        if isinstance(m, _BatchNorm):
            handles.append(m.register_forward_hook(lambda m, *_, n=name: uses.append((n, m))))
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    names = [name for name, _ in uses]
    sites = [
        name if not (seen := names[:i].count(name)) else f"{name}#{seen + 1}"
        for i, name in enumerate(names)
    ]
    centres = [torch.cat([m.running_mean, (m.running_var + m.eps).log() / 2]) for _, m in uses]
    return tuple(sites), tuple(m.num_features for _, m in uses), torch.cat(centres)


def stochastic(net, x, **options):
    sites, channels, mean = trace(net, x)
    network = StochasticNet(net, Factorised(mean, 0.2 * torch.ones_like(mean)), sites, channels,
                            **options)  # fmt: skip
    network.settle(x)
    return network


def naive(net, network, x, noise):
    """Answer with one pass a sample on the owner's net, its batch norms replaced by hooks."""
    net = copy.deepcopy(net).eval()
    answers = []
    for row in network.sampler(noise):
        parts = list(torch.split(row, [2 * c for c in network.channels]))

        def hook(module, args, _out, parts=parts):
            return normalised(module, parts.pop(0), args[0])

        handles = [
            m.register_forward_hook(hook) for m in net.modules() if isinstance(m, _BatchNorm)
        ]
        with torch.no_grad():
            answers.append(F.softmax(net(x), 1))
        assert not parts
        for handle in handles:
            handle.remove()
    return torch.stack(answers)


def folds(network):
    return [n for n, m in network.net.named_modules() if isinstance(m, FoldableLayer)]


def check(net, x, *, lazy=None, folded=None, tolerance=1e-9):
    """Assert that all ways give the same answers, for any batch and number of samples."""
    network = stochastic(prepare(net, x), x)
    for rows, samples in ((1, 3), (len(x), 2), (2, 1)):
        noise = network.noise(samples, source(rows))
        expected = naive(net, network, x[:rows], noise)
        with torch.no_grad():
            for way in (network.virtual, network.loop):
                torch.testing.assert_close(way(x[:rows], noise), expected, atol=tolerance, rtol=0)
    assert samples == 1 or float((expected[0] - expected[1]).abs().max()) > 1e-3
    if lazy is not None:
        assert network.lazy is lazy
    if folded is not None:
        assert folds(network) == folded
    return network


FAMILIES = [
    ("bnnkit:resnet20-cifar", {}, 16),
    ("torchvision:resnet18", {"num_classes": 10}, 16),
    ("torchvision:mobilenet_v2", {"num_classes": 10}, 16),
    ("torchvision:shufflenet_v2_x0_5", {"num_classes": 10}, 16),
    ("torchvision:googlenet", {"num_classes": 10, "init_weights": False, "aux_logits": False}, 32),
    ("timm:efficientnet_b0", {"num_classes": 10}, 16),
    pytest.param("torchvision:densenet121", {"num_classes": 10}, 32, marks=pytest.mark.slow),
    pytest.param("timm:resnetv2_50", {"num_classes": 10}, 16, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("arch", "options", "size"), FAMILIES)
def test_families(arch, options, size):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    net = build_architecture(arch, options, seed=0)
    x = torch.randn(4, 3, size, size, generator=source())
    network = check(net.double(), x.double())
    assert network.lazy
    assert folds(network)


class Around(nn.Module):
    """A branch that goes around the first batch norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.skip = nn.Conv2d(3, 6, 1)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last((self.bn(self.conv(x)) + self.skip(x)).relu().mean((2, 3)))


class Twice(nn.Module):
    """One batch-norm layer, used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        x = self.bn(self.first(x)).relu()
        return self.last(self.bn(self.second(x)).relu().mean((2, 3)))


class Shared(nn.Module):
    """One convolution read through two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last((self.a(self.conv(x)).relu() + self.b(self.conv(x))).mean((2, 3)))


class ReadTwice(nn.Module):
    """A convolution that a batch norm reads, and something else."""

    def __init__(self, share=1.0):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)
        self.share = share

    def forward(self, x):
        x = self.conv(x)
        return self.last((self.bn(x).relu() + self.share * x).mean((2, 3)))


class Inplace(nn.Module):
    """A tensor that is changed in place between the convolution and the batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x)
        x.relu_()
        return self.last(F.relu(self.bn(x), inplace=True).mean((2, 3)))


class Rows(nn.Module):
    """A linear layer along another axis than the one that is normalised."""

    def __init__(self, width):
        super().__init__()
        self.linear, self.bn = nn.Linear(7, width), nn.BatchNorm1d(5)
        self.last = nn.Linear(5 * width, 4)

    def forward(self, x):
        return self.last(self.bn(self.linear(x)).relu().flatten(1))


class Frames(nn.Module):
    """Frames of a clip, taken as one batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        y = self.bn(self.conv(x.flatten(0, 1))).relu().mean((2, 3))
        return self.last(y.unflatten(0, x.shape[:2]).mean(1))


class Pairs(nn.Module):
    """Both halves of a pair, one batch after the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        y = self.bn(self.conv(torch.cat([x, x.flip(3) * 2]))).relu().mean((2, 3))
        first, second = y.chunk(2)
        return self.last(first) + self.last(second)


class Views(nn.Module):
    """Maps flattened by `view`, which wants them in the usual memory format."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(216, 4)

    def forward(self, x):
        x = self.bn(self.conv(x)).relu()
        return self.last(x.view(x.size(0), -1))


def images(n=4, size=8):
    return torch.randn(n, 3, size, size, generator=source())


def chain(layer, channels=6):
    return nn.Sequential(
        layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(channels, 4),
    )  # fmt: skip


ODD = {
    "branch around the first norm": (Around, images(), False, ["conv"]),
    "norm used twice": (Twice, images(), True, []),
    "convolution used twice": (Shared, images(), False, []),
    "convolution read twice": (ReadTwice, images(), False, []),
    "in place before the norm": (Inplace, images(), True, []),
    "bias": (lambda: chain(nn.Conv2d(3, 6, 3)), images(), True, ["0"]),
    "no bias": (lambda: chain(nn.Conv2d(3, 6, 3, bias=False)), images(), True, ["0"]),
    "transposed": (lambda: chain(nn.ConvTranspose2d(3, 6, 3)), images(), True, []),
    "weight norm": (
        lambda: chain(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))), images(), True,
        [],
    ),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), *chain(nn.Conv2d(3, 6, 3))),
                   images(), True, ["1"]),
    "linear": (lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(),
                                     nn.Linear(5, 4)),
               torch.randn(4, 7, generator=source()), True, ["0"]),
    "linear along another axis": (lambda: Rows(5), torch.randn(4, 5, 7, generator=source()),
                                  True, []),
    "linear of another width": (lambda: Rows(6), torch.randn(4, 5, 7, generator=source()),
                                True, []),
    "view": (Views, images(), True, ["conv"]),
    "frames": (Frames, torch.randn(4, 2, 3, 8, 8, generator=source()), None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_nets(case):
    make, x, lazy, folded = ODD[case]
    check(seeded(make).double(), x.double(), lazy=lazy, folded=folded)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_net_that_joins_its_inputs_along_the_batch_takes_the_way_that_is_right(rows):
    net, x = seeded(Pairs), images(7)
    network = stochastic(prepare(net, x), x)
    noise = network.noise(3)
    with torch.no_grad():
        members = network.members(x[:rows], noise)
    torch.testing.assert_close(members, naive(net, network, x[:rows], noise), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["bias", "linear"])
def test_single_precision(case):
    make, x, lazy, folded = ODD[case]
    check(seeded(make), x, lazy=lazy, folded=folded, tolerance=1e-6)


def test_single_precision_of_a_deep_net():
    net = build_architecture("bnnkit:resnet20-cifar", seed=0)
    check(net, torch.randn(4, 3, 32, 32, generator=source()), tolerance=1e-5)


def test_a_layer_that_is_read_twice_is_not_folded_where_the_trial_inputs_hardly_tell():
    """The other reader has a small share, and the answers on the trial inputs are certain."""

    class Certain(ReadTwice):
        def forward(self, x):
            return 300 * super().forward(x)

    net, x = prepare(seeded(lambda: Certain(0.02)), images()), images()
    network = stochastic(net, x)
    noise = network.noise(3, source(3))
    others = torch.randn(300, 3, 8, 8, generator=source(9))
    with torch.no_grad():
        expected = naive(net, network, others, noise)
        torch.testing.assert_close(network.loop(others, noise), expected, atol=1e-3, rtol=0)


def test_a_large_virtual_batch_is_cut(monkeypatch):
    net, x = seeded(lambda: chain(nn.Conv2d(3, 6, 3))), images()
    network = stochastic(prepare(net, x), x)
    noise = network.noise(7)
    whole = network.virtual(x, noise)
    seen = []
    network.net.get_submodule("5").register_forward_hook(lambda _m, a, _y: seen.append(len(a[0])))
    monkeypatch.setattr("bnnkit.methods.sbn.network.MOST_ROWS", 9)
    torch.testing.assert_close(network.virtual(x, noise), whole, atol=1e-6, rtol=0)
    assert seen == [8, 8, 8, 4]


def test_choose_keeps_the_answers_and_takes_a_size_that_was_tried():
    net, x = seeded(lambda: chain(nn.Conv2d(3, 6, 3))), images(20)
    network = stochastic(prepare(net, x), x)
    noise = network.noise(3)
    before = network.members(x, noise)
    network.choose(x, samples=2)
    assert network.virtual_rows in (0, 1, 4, 16)
    torch.testing.assert_close(network.members(x, noise), before, atol=1e-5, rtol=0)


def test_a_net_that_views_its_maps_can_be_timed():
    net, x = seeded(Views), images(5)
    network = stochastic(prepare(net, x), x)
    network.choose(x, samples=2)
    noise = network.noise(3)
    expected = naive(net, network, x, noise)
    torch.testing.assert_close(network.loop(x, noise), expected, atol=1e-5, rtol=0)


def test_members_come_one_by_one_and_leave_the_net_plain_between():
    net, x = seeded(lambda: chain(nn.Conv2d(3, 6, 3))), images()
    network = stochastic(prepare(net, x), x)
    noise = network.noise(3)
    with torch.no_grad():
        expected, plain = network.loop(x, noise), net(x)
        for k, member in enumerate(network.each_member(x, noise)):
            torch.testing.assert_close(member, expected[k])
            torch.testing.assert_close(network.net(x), plain)
        under = network.each_under(x, network.sampler(noise))
        torch.testing.assert_close(torch.stack(list(under)), expected)


def test_statistics_of_another_net_are_refused():
    net, x = prepare(seeded(lambda: chain(nn.Conv2d(3, 6, 3))), images()), images()
    _, channels, mean = trace(net, x)
    sampler = Factorised(mean, mean)
    with pytest.raises(StructureError, match=r"'bn1'.*no such layer"):
        StochasticNet(net, sampler, ("bn1",), channels)
    with pytest.raises(StructureError, match=r"7 channels.*6 channels"):
        StochasticNet(net, sampler, ("1",), (7,))
