"""Odd nets of other people: each is either slimmed exactly or locked with a reason."""

from __future__ import annotations

import copy
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.graph.analyse import analyse
from bnnkit.graph.outputs import main_output
from bnnkit.graph.settle import EXACT, settle, slim_exactly


class Net(nn.Module):
    """Takes its layers by name and its forward as a function of (self, x)."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self._function(self, x)


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **options})


def pooled(x):
    return x.mean((2, 3))


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class SamePadConv(nn.Conv2d):
    """Pads in its forward, as TensorFlow's nets do."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class ShiftedConv(nn.Conv2d):
    """Reads not what it is given: a gate before it is no gate on what it mixes."""

    def forward(self, x):
        return super().forward(x + 1)


class OwnConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i, 3, 3) * 0.2)

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


class SqueezeExcite(nn.Module):
    def __init__(self, c, r):
        super().__init__()
        self.c = c
        self.fc1, self.fc2 = nn.Linear(c, r), nn.Linear(r, c)

    def forward(self, x):
        b, c = x.shape[:2]
        s = torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1).view(b, c)))))
        return x * s.view(b, c, 1, 1)


class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, stride=2, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o, bias=False), nn.BatchNorm2d(o)
        pads = (0, 0, 0, 0, o // 4, o // 4)
        self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], pads, "constant", 0))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def shuffle(x, groups):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


Answer = namedtuple("Answer", ["logits", "aux"])


def head(c=8):
    return nn.Linear(c, 4)


def frozen_bn():
    net = Net(
        lambda m, x: m.fc(pooled(F.relu(m.bn(m.a(x))))), a=conv(3, 8), bn=nn.BatchNorm2d(8),
        fc=head(),
    )  # fmt: skip
    net.bn.eval()
    return net


def tied_linear():
    net = Net(
        lambda m, x: m.fc(F.relu(m.q(F.relu(m.p(pooled(F.relu(m.a(x)))))))),
        a=conv(3, 8), p=nn.Linear(8, 8), q=nn.Linear(8, 8), fc=head(),
    )  # fmt: skip
    net.q.weight = net.p.weight
    return net


def tied_norms():
    net = Net(
        lambda m, x: m.fc(pooled(F.relu(m.n2(m.b(F.relu(m.n1(m.a(x)))))))),
        a=conv(3, 8), n1=nn.BatchNorm2d(8), b=conv(8, 8), n2=nn.BatchNorm2d(8), fc=head(),
    )  # fmt: skip
    net.n2.weight = net.n1.weight
    return net


def alias():
    net = Net(lambda m, x: m.fc(pooled(m.again(F.relu(m.a(x))))), a=conv(3, 8), b=conv(8, 8),
              fc=head())  # fmt: skip
    net.again = net.b
    return net


def normed(function):
    return Net(lambda m, x: m.fc(pooled(F.relu(m.b(F.relu(m.a(x)))))), a=conv(3, 8),
               b=function(conv(8, 8)), fc=head())  # fmt: skip


def two_convs(middle, **layers):
    """Conv, `middle(module, x)`, conv, head."""
    c = layers.pop("c", 8)
    return Net(
        lambda m, x: m.fc(pooled(F.relu(m.b(middle(m, F.relu(m.a(x))))))),
        a=conv(3, 8), b=conv(c, 8), fc=head(), **layers,
    )  # fmt: skip


def scaled(shape):
    net = two_convs(lambda m, x: x * m.scale)
    net.scale = nn.Parameter(torch.randn(shape))
    return net


def buffered(persistent):
    net = two_convs(lambda m, x: x * m.scale)
    net.register_buffer("scale", torch.randn(1, 8, 1, 1), persistent=persistent)
    return net


def unused():
    net = two_convs(lambda m, x: x)
    net.orphan = nn.Parameter(torch.randn(8))
    net.spare = nn.Conv2d(8, 8, 1)
    return net


# Nets whose channels `a` (or all but the last layer's) can be removed.
REMOVABLE = {
    "option_a": lambda: Net(lambda m, x: m.fc(pooled(m.b(F.relu(m.a(x))))), a=conv(3, 8),
                            b=Block(8, 16), fc=head(16)),
    "hard_coded_view": lambda: Net(
        lambda m, x: m.fc(F.relu(m.h(F.max_pool2d(F.relu(m.a(x)), 2).view(-1, 8 * 4 * 4)))),
        a=conv(3, 8), h=nn.Linear(128, 12), fc=head(12)),
    "view_by_batch": lambda: Net(lambda m, x: m.fc(F.relu(m.a(x)).view(x.shape[0], -1)),
                                 a=conv(3, 8), fc=head(512)),
    "view_by_size": lambda: Net(lambda m, x: m.fc(F.relu(m.a(x)).reshape(x.size(0), 512)),
                                a=conv(3, 8), fc=head(512)),
    "called_twice": lambda: two_convs(lambda m, x: F.relu(m.s(F.relu(m.s(x)))), s=conv(8, 8)),
    "depthwise_multiplier": lambda: two_convs(lambda m, x: F.relu(m.d(x)),
                                              d=conv(8, 16, groups=8), c=16),
    "grouped": lambda: two_convs(lambda m, x: F.relu(m.g(x)), g=conv(8, 8, groups=2)),
    "grouped_after_depthwise": lambda: two_convs(
        lambda m, x: F.relu(m.g(m.d(x))), d=conv(8, 8, groups=8), g=conv(8, 8, groups=4)),
    "concat_twice": lambda: two_convs(lambda m, x: torch.cat([x, x], 1), c=16),
    "concat_with_input": lambda: Net(
        lambda m, x: m.fc(pooled(F.relu(m.b(torch.cat([x, F.relu(m.a(x))], 1))))),
        a=conv(3, 8), b=conv(11, 8), fc=head()),
    "concat_zeros_like": lambda: two_convs(lambda m, x: torch.cat([x, torch.zeros_like(x)], 1),
                                           c=16),
    "prelu": lambda: two_convs(lambda m, x: m.act(x - 1), act=nn.PReLU(8)),
    "prelu_shared": lambda: two_convs(lambda m, x: m.act(x - 1), act=nn.PReLU()),
    "scale_c11": lambda: scaled((8, 1, 1)),
    "scale_1c11": lambda: scaled((1, 8, 1, 1)),
    "scale_scalar": lambda: scaled(()),
    "buffer": lambda: buffered(True),
    "buffer_not_saved": lambda: buffered(False),
    "squeeze_excite": lambda: two_convs(lambda m, x: m.se(x), se=SqueezeExcite(8, 4)),
    "shuffle": lambda: two_convs(lambda m, x: shuffle(x, 2)),
    "shuffle_grouped": lambda: two_convs(lambda m, x: F.relu(m.g(shuffle(m.f(x), 2))),
                                         f=conv(8, 8, groups=2), g=conv(8, 8, groups=2)),
    "split_uneven": lambda: two_convs(
        lambda m, x: torch.cat([m.p(y := x.split([3, 5], 1)[0]), x.split([3, 5], 1)[1], y], 1),
        p=conv(3, 4), c=12),
    "chunk": lambda: two_convs(lambda m, x: (lambda p, q: p * torch.sigmoid(q))(*x.chunk(2, 1)),
                               c=4),
    "slice": lambda: two_convs(lambda m, x: x[:, :5], c=5),
    "slice_step": lambda: two_convs(lambda m, x: x[:, ::2] + x[:, 1::2], c=4),
    "slice_one": lambda: two_convs(lambda m, x: torch.cat([x[:, 3:4], x], 1), c=9),
    "flip": lambda: two_convs(lambda m, x: x + x.flip(1)),
    "roll": lambda: two_convs(lambda m, x: x.roll(1, 1)),
    "flip_space": lambda: two_convs(lambda m, x: x + x.flip(3)),
    "conv1d": lambda: Net(lambda m, x: m.fc(F.relu(m.b(F.relu(m.a(x.flatten(2))))).mean(2)),
                          a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 8, 3, groups=2), fc=head()),
    "functional_dropout": lambda: two_convs(lambda m, x: F.dropout(x, 0.5, m.training)),
    "dropout2d": lambda: two_convs(lambda m, x: m.drop(x), drop=nn.Dropout2d(0.5)),
    "stochastic_depth": lambda: two_convs(
        lambda m, x: x + m.r(x) * (torch.rand(len(x), 1, 1, 1) < 0.5 if m.training else 1),
        r=conv(8, 8)),
    "sequence_linear": lambda: Net(
        lambda m, x: m.fc(F.gelu(m.h(F.relu(m.a(x)).flatten(2).transpose(1, 2)))).mean(1),
        a=conv(3, 8), h=nn.Linear(8, 12), fc=head(12)),
    "tuple": lambda: Net(lambda m, x: (m.fc(y := pooled(F.relu(m.a(x)))), m.aux(y)),
                         a=conv(3, 8), fc=head(), aux=head()),
    "dict": lambda: Net(lambda m, x: {"aux": m.aux(y := pooled(F.relu(m.a(x)))),
                                      "logits": m.fc(y)}, a=conv(3, 8), fc=head(), aux=head()),
    "named_tuple": lambda: Net(
        lambda m, x: Answer(m.fc(y := pooled(F.relu(m.a(x)))), m.aux(y) if m.training else None),
        a=conv(3, 8), fc=head(), aux=head()),
    "in_place": lambda: two_convs(lambda m, x: x.mul_(2).add_(1).clamp_(max=3)),
    "in_place_residual": lambda: two_convs(lambda m, x: m.r(x).add_(x).relu_(), r=conv(8, 8)),
    "frozen_norm": frozen_bn,
    "tied_norms": tied_norms,
    "unused": unused,
    "no_affine": lambda: two_convs(lambda m, x: m.n(x), n=nn.BatchNorm2d(8, affine=False)),
    "no_running": lambda: two_convs(
        lambda m, x: m.n(x), n=nn.BatchNorm2d(8, track_running_stats=False)),
    "instance_norm": lambda: two_convs(
        lambda m, x: m.n(x), n=nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
    "two_heads": lambda: Net(lambda m, x: m.p(y := pooled(F.relu(m.a(x)))) + m.q(y).tanh(),
                             a=conv(3, 8, bias=False), p=head(), q=head()),
    "padded_subclass": lambda: two_convs(lambda m, x: F.relu(m.s(x)),
                                         s=SamePadConv(8, 8, 2)),
    "reflecting": lambda: two_convs(
        lambda m, x: F.relu(m.s(x)), s=conv(8, 8, padding_mode="reflect")),
    "reflecting_and_view": lambda: Net(
        lambda m, x: m.fc(F.relu(m.b(F.relu(m.a(x)))).view(-1, 512)), a=conv(3, 8),
        b=conv(8, 8, padding_mode="circular"), fc=head(512)),
    "same_padding": lambda: two_convs(lambda m, x: m.s(x), s=conv(8, 8, padding="same")),
    "by_keyword": lambda: two_convs(lambda m, x: m.s(input=x), s=conv(8, 8)),
    "scaled_by_width": lambda: two_convs(lambda m, x: x / x.shape[1] ** 0.5),
    "sigmoid": lambda: two_convs(lambda m, x: torch.sigmoid(x) + 1),
    "no_grad": lambda: two_convs(lambda m, x: torch.no_grad()(m.r)(x), r=conv(8, 8)),
    "residual": lambda: two_convs(lambda m, x: F.relu(x + m.r(x)), r=conv(8, 8)),
    "upsampled": lambda: two_convs(lambda m, x: F.interpolate(x, scale_factor=2)),
    "spatial_attention": lambda: two_convs(
        lambda m, x: x * torch.sigmoid(m.mask(x)), mask=conv(8, 1)),
    "constant_attribute": lambda: Net(
        lambda m, x: m.fc((F.relu(m.a(x)) * m.ramp).view(-1, 512)), a=conv(3, 8), fc=head(512),
        ramp=torch.linspace(0, 1, 8)),
    "select": lambda: two_convs(lambda m, x: x * x[:, 2:3].sigmoid()),
    "cast": lambda: two_convs(lambda m, x: x.to(x.dtype).type_as(x)),
    "squeeze_all": lambda: Net(
        lambda m, x: m.fc(F.adaptive_avg_pool2d(F.relu(m.a(x)), 1).squeeze()), a=conv(3, 8),
        fc=head()),
    "scale_view": lambda: (lambda net: (setattr(net, "gamma", nn.Parameter(torch.randn(8))), net)
                           )(Net(lambda m, x: m.fc((F.relu(m.a(x)) * m.gamma.view(1, 8, 1, 1))
                                                   .view(-1, 512)), a=conv(3, 8),
                                 fc=head(512)))[1],
}  # fmt: skip

# Nets in which the part `a` (or the named one) must stay, and words of the reason.
LOCKED = {
    "group_norm": (lambda: two_convs(lambda m, x: m.n(x), n=nn.GroupNorm(2, 8)), "a",
                   "group_norm"),
    "layer_norm": (lambda: two_convs(lambda m, x: m.n(x), n=nn.LayerNorm([8, 8, 8])), "a",
                   "layer_norm"),
    "weight_norm": (lambda: normed(nn.utils.parametrizations.weight_norm), "a", "computed weight"),
    "spectral_norm": (lambda: normed(nn.utils.parametrizations.spectral_norm), "a",
                      "computed weight"),
    "old_weight_norm": (lambda: normed(nn.utils.weight_norm), "a", "computed weight"),
    "transposed": (lambda: two_convs(lambda m, x: m.up(x), up=nn.ConvTranspose2d(8, 8, 2)), "a",
                   "conv_transpose2d"),
    "own_conv": (lambda: two_convs(lambda m, x: m.own(x), own=OwnConv(8, 8)), "a", "OwnConv"),
    "shifted": (lambda: two_convs(lambda m, x: m.s(x), s=ShiftedConv(8, 8, 3)), "a",
                "ShiftedConv"),
    "input_residual": (lambda: Net(lambda m, x: m.fc(pooled(F.relu(m.a(x) + x))), a=conv(3, 3),
                                   fc=head(3)), "a", "input"),
    "feature_output": (lambda: Net(lambda m, x: (m.fc(pooled(y := F.relu(m.a(x)))), y),
                                   a=conv(3, 8), fc=head()), "a", "output"),
    "weight_output": (lambda: Net(lambda m, x: (m.fc(pooled(F.relu(m.a(x)))), m.fc.weight),
                                  a=conv(3, 8), fc=head()), "a", "output"),
    "attention": (lambda: Net(
        lambda m, x: m.fc(m.at(y := F.relu(m.a(x)).flatten(2).transpose(1, 2), y, y)[0].mean(1)),
        a=conv(3, 8), at=nn.MultiheadAttention(8, 2, batch_first=True), fc=head()), "a", ""),
    "channel_mean": (lambda: two_convs(lambda m, x: x - x.mean(1, keepdim=True)), "a", "mean"),
    "channel_norm": (lambda: two_convs(lambda m, x: x / x.norm(2, 1, keepdim=True)), "a", "norm"),
    "softmax": (lambda: two_convs(lambda m, x: x.softmax(1)), "a", "softmax"),
    "tied_linear": (tied_linear, "q", "not a layer of its own"),
    "stack_sum": (lambda: two_convs(lambda m, x: torch.stack([x, m.r(x)]).sum(0), r=conv(8, 8)),
                  "a", "sum"),
    "position": (lambda: scaled((1, 8, 8, 8)), "a", "scale"),
    "constant": (lambda: two_convs(lambda m, x: x * torch.arange(8.0).view(1, 8, 1, 1)), "a",
                 "constant of 8 values"),
    "gather": (lambda: two_convs(lambda m, x: x[:, [0, 2, 1, 3, 7, 6, 5, 4]]), "a",
               "not followed"),
    "pixel_shuffle": (lambda: two_convs(lambda m, x: F.pixel_shuffle(x, 2), c=2), "a", ""),
    "matmul": (lambda: two_convs(lambda m, x: x @ x.transpose(2, 3)), "a", "matmul"),
    "cumulative": (lambda: two_convs(lambda m, x: x.cumsum(1)), "a", "cumsum"),
    "computed_slopes": (lambda: two_convs(lambda m, x: F.prelu(x - 1, m.act.weight * 2),
                                          act=nn.PReLU(8)), "a", "slopes"),
    "autocast_region": (lambda: two_convs(
        lambda m, x: torch.autocast("cpu", enabled=False)(m.r)(x), r=conv(8, 8)), "a",
        "not followed"),
    "byte_view": (lambda: two_convs(lambda m, x: x.view(x.dtype)), "a", ""),
    "assigned": (lambda: two_convs(lambda m, x: _assign(x)), "a", ""),
    "cast_down": (lambda: two_convs(lambda m, x: x.float()), "a", "trial removal"),
    "padded_by_neighbours": (lambda: Net(
        lambda m, x: m.fc(F.pad(m.h(pooled(x))[None], (1, 1), "reflect")[0]), h=nn.Linear(3, 8),
        fc=head(10)), "h", "padded"),
    "batch_in_channels": (lambda: Net(lambda m, x: m.fc(pooled(F.relu(m.a(x))).reshape(-1, 4)),
                                      a=conv(3, 8), fc=head(4)), "a", "two axes"),
}  # fmt: skip


def _assign(x):
    y = torch.zeros(x.shape[0], 8, 8, 8)
    y[:, :4] = x[:, 4:]
    return y + x


def prepared(build, seed=0):
    """Build with seeded weights, and statistics that are not those of a fresh norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.data.uniform_(0.3, 1.5)
    return model


def decision(structure, seed):
    generator = torch.Generator().manual_seed(seed)
    theta = torch.rand(structure.n_units, generator=generator) * 0.9 + 0.1
    keep = torch.rand(structure.n_units, generator=generator) < 0.5
    return structure.ensure_alive(keep, theta)[0], theta


def inputs(n=3, seed=1):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def gated_by_hand(model, structure, theta, x):
    """Scale the input weights of every reader, one channel after the other."""
    model = copy.deepcopy(model).double().eval()
    for name, units in structure.reads.items():
        weight = model.get_submodule(name).weight
        groups = getattr(model.get_submodule(name), "groups", 1)
        out, per_group = weight.shape[0] // groups, weight.shape[1]
        with torch.no_grad():
            for position, unit in enumerate(units.tolist()):
                if unit >= 0:
                    group, column = divmod(position, per_group)
                    weight[group * out : (group + 1) * out, column] *= theta[unit].double()
    with torch.no_grad():
        return main_output(model(x.double()))


@pytest.mark.parametrize("name", REMOVABLE)
def test_exact(name):
    model = prepared(REMOVABLE[name])
    structure = analyse(model, inputs(2))
    assert structure.n_units > 0
    settled = settle(model, structure)
    assert settled.n_units == structure.n_units, settled.locked
    for seed in range(2):
        keep, theta = decision(structure, seed)
        slimmed = slim_exactly(model, structure, keep, theta, inputs(5))
        assert slimmed.worst <= EXACT
        with torch.no_grad():
            got = main_output(copy.deepcopy(slimmed.model).double().eval()(inputs(5).double()))
        expected = gated_by_hand(model, structure, theta * keep, inputs(5))
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
    before = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in slimmed.model.parameters()) < before


@pytest.mark.parametrize("name", LOCKED)
def test_locked_with_a_reason(name):
    build, part, words = LOCKED[name]
    model = prepared(build)
    structure = settle(model, analyse(model, inputs(2)))
    reasons = {p.name: p.reason for p in structure.locked}
    assert part in reasons
    assert words in reasons[part]
    assert part not in {w for c in structure.classes for w in c.writers}
    if structure.classes:
        keep, theta = decision(structure, 0)
        assert slim_exactly(model, structure, keep, theta, inputs(5)).worst <= EXACT
