"""The carrier against `nn.BatchNorm` itself: statistics, train-mode answers, hooks, folding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from bnnkit.layers.stochastic_batch_norm import (
    FoldableLayer,
    Pass,
    StochasticBatchNorm,
    batch_statistics,
)

SHAPES = [
    (nn.BatchNorm1d, (8, 5)),
    (nn.BatchNorm1d, (8, 5, 7)),
    (nn.BatchNorm2d, (4, 5, 6, 3)),
    (nn.BatchNorm3d, (3, 5, 2, 3, 4)),
    (nn.SyncBatchNorm, (4, 5, 6, 3)),
]
OPTIONS = [
    {},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
    {"eps": 0.5},
    {"momentum": None},
]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, seed=0, **options):
    norm = kind(5, **options).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias):
            if tensor is not None:
                tensor.copy_(torch.randn(5, generator=source(seed)))
    return norm


def inputs(shape, seed=1):
    scale = torch.tensor([0.01, 0.3, 1.0, 4.0, 20.0]).reshape(1, 5, *[1] * (len(shape) - 2))
    return scale * (1 + torch.randn(shape, generator=source(seed)))


def implied(norm, x):
    """Return mean and biased variance that a layer of torch takes over from a batch."""
    fresh = type(norm)(norm.num_features, eps=norm.eps, momentum=1.0, affine=False).train()
    fresh(x)
    n = x.numel() // x.shape[1]
    return fresh.running_mean, fresh.running_var * (n - 1) / n


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_a_recorded_batch_has_the_statistics_and_the_answer_of_training(kind, shape, options):
    norm, x = make(kind, **options), inputs(shape)
    shared = Pass()
    carrier = StochasticBatchNorm(norm, "bn", shared).eval()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    shared.begin("record")
    out = carrier(x)
    mean, log_deviation = shared.recorded["bn"].chunk(2)
    expected_mean, variance = implied(norm, x)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(log_deviation, 0.5 * (variance + norm.eps).log())
    torch.testing.assert_close(out, copy.deepcopy(norm).train()(x), atol=1e-5, rtol=1e-5)
    assert all(v.equal(before[k]) for k, v in norm.state_dict().items())
    assert not norm.training


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_a_sample_acts_like_eval_mode_with_these_running_statistics(kind, shape, options):
    norm, x = make(kind, **options), inputs(shape)
    carrier = StochasticBatchNorm(norm, "bn", shared := Pass()).eval()
    statistics = 0.5 * torch.randn(3, 10, generator=source(2))
    a, b = carrier.affine(statistics)
    expected = []
    for row in statistics:
        kept = {**options, "track_running_stats": True}
        other = make(kind, **kept)
        other.running_mean.copy_(row[:5])
        other.running_var.copy_((2 * row[5:]).exp() - norm.eps)
        expected.append(other(x))
    for k in range(3):
        shared.begin("single", {"bn": (a[k : k + 1], b[k : k + 1])})
        torch.testing.assert_close(carrier(x), expected[k], atol=1e-5, rtol=1e-5)
    for widen in (False, True):
        shared.begin("copies", {"bn": (a, b)})
        shared.copies = 3
        out = carrier(shared.widen(x) if widen else x)
        torch.testing.assert_close(out, torch.cat(expected), atol=1e-5, rtol=1e-5)
    shared.end()
    torch.testing.assert_close(carrier(x), norm(x))


def test_the_deviation_of_a_channel_that_never_fires_is_the_root_of_eps():
    x = torch.full((6, 2, 3), 7.0)
    mean, log_deviation = batch_statistics(x, 1e-3).chunk(2)
    assert mean.tolist() == [7.0, 7.0]
    assert log_deviation.tolist() == pytest.approx([0.5 * math.log(1e-3)] * 2)


def test_each_use_of_a_layer_has_its_own_statistics():
    norm, x = make(nn.BatchNorm2d), inputs((4, 5, 6, 3))
    carrier = StochasticBatchNorm(norm, "bn", shared := Pass()).eval()
    shared.begin("record")
    carrier(2 * carrier(x) + 1)
    assert list(shared.recorded) == ["bn", "bn#2"]
    assert not shared.recorded["bn"].allclose(shared.recorded["bn#2"])
    shared.begin("record")
    assert shared.recorded == {}
    carrier(x)
    assert list(shared.recorded) == ["bn"]


class Squashing(nn.BatchNorm2d):
    """What a foreign subclass may do around the normalisation."""

    def forward(self, x):
        return torch.tanh(super().forward(2 * x)) + 1


class Spelled(nn.BatchNorm2d):
    """Likewise, with the call written out."""

    def forward(self, x):
        y = nn.functional.batch_norm(
            input=x, running_mean=self.running_mean, running_var=self.running_var,
            weight=self.weight, bias=self.bias, training=self.training, eps=self.eps,
        )  # fmt: skip
        return torch.tanh(y)


@pytest.mark.parametrize("kind", [Squashing, Spelled])
def test_what_a_subclass_does_besides_is_kept(kind):
    norm, x = make(kind), inputs((4, 5, 6, 3))
    carrier = StochasticBatchNorm(norm, "bn", shared := Pass()).eval()
    shared.begin("record")
    torch.testing.assert_close(carrier(x), copy.deepcopy(norm).train()(x), atol=1e-5, rtol=1e-5)
    assert list(shared.recorded) == ["bn"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_owners_hooks_still_act(when):
    norm, x = make(nn.BatchNorm2d), inputs((4, 5, 6, 3))
    if when == "before":
        norm.register_forward_pre_hook(lambda _m, args: (args[0] ** 2,))
    else:
        norm.register_forward_hook(lambda _m, _args, y: y.relu())
    carrier = StochasticBatchNorm(norm, "bn", shared := Pass()).eval()
    shared.begin("record")
    torch.testing.assert_close(carrier(x), copy.deepcopy(norm).train()(x), atol=1e-5, rtol=1e-5)


FOLDS = [
    (lambda: nn.Conv1d(4, 5, 3, padding=1), nn.BatchNorm1d, (2, 4, 9)),
    (lambda: nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d, (2, 4, 6, 6)),
    (lambda: nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d, (2, 4, 6, 6)),
    (lambda: nn.Conv2d(5, 5, 3, groups=5, stride=2), nn.BatchNorm2d, (2, 5, 6, 6)),
    (lambda: nn.Conv3d(4, 5, 2, dilation=2), nn.BatchNorm3d, (2, 4, 4, 5, 4)),
    (lambda: nn.Linear(4, 5), nn.BatchNorm1d, (2, 4)),
    (lambda: nn.Linear(4, 5, bias=False), nn.BatchNorm1d, (2, 4)),
]


@pytest.mark.parametrize(("layer", "kind", "shape"), FOLDS)
def test_a_folded_layer_answers_what_layer_and_norm_answer(layer, kind, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = layer()
    carrier = StochasticBatchNorm(make(kind), "bn", shared := Pass()).eval()
    foldable = FoldableLayer(layer, carrier)
    x = torch.randn(shape, generator=source())
    affine = {"bn": carrier.affine(torch.randn(1, 10, generator=source(3)))}
    shared.begin("single", affine)
    apart = carrier(layer(x))
    carrier.folded = True
    shared.begin("single", affine)
    torch.testing.assert_close(carrier(foldable(x)), apart, atol=1e-5, rtol=1e-5)
    assert not foldable(x).allclose(layer(x))
    shared.end()
    assert foldable(x).equal(layer(x))
