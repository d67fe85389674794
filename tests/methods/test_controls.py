"""Scores of the weights: by hand, and against Torch-Pruning's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnnkit.errors import UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.io.architectures import build_architecture
from bnnkit.methods.controls import bn_scale_scores, magnitude_scores, random_scores


class Small(nn.Module):
    """One class with two columns a unit in its reader, one without a norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(8, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean(3).flatten(1)
        return self.last(torch.relu(self.fc(x)))


def small():
    model = Small()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model, analyse(model, torch.zeros(2, 2, 2, 2))


def test_magnitude_by_hand():
    model, structure = small()
    score = magnitude_scores(model, structure)
    first, second = structure.classes
    with torch.no_grad():
        conv = model.conv.weight.square().sum((1, 2, 3))
        columns = model.fc.weight.square().sum(0).reshape(4, 2).sum(1)
        expected = (conv + model.norm.weight.square() + columns) / 3
        torch.testing.assert_close(score[first.units], expected / expected.mean())
        rows = model.fc.weight.square().sum(1)
        expected = (rows + model.last.weight.square().sum(0)) / 2
        torch.testing.assert_close(score[second.units], expected / expected.mean())


def test_batch_norm_scales_by_hand_and_classes_without_are_kept():
    model, structure = small()
    score = bn_scale_scores(model, structure)
    first, second = structure.classes
    scale = model.norm.weight.detach().abs()
    torch.testing.assert_close(score[first.units], scale / scale.mean())
    assert bool(score[second.units].isinf().all())


def test_no_batch_norm_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(UsageError, match="no batch norm"):
        bn_scale_scores(model, analyse(model, torch.zeros(2, 2)))


def test_what_is_zero_scores_zero():
    model, structure = small()
    for parameter in model.parameters():
        parameter.data.zero_()
    assert magnitude_scores(model, structure).tolist() == [0.0] * structure.n_units


def test_random_scores_follow_their_generator():
    _, structure = small()
    draws = [random_scores(structure, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (structure.n_units,)


@pytest.mark.parametrize(
    "arch",
    ["torchvision:resnet18", pytest.param("torchvision:vgg11_bn", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("scores", [magnitude_scores, bn_scale_scores])
def test_scores_are_those_of_torch_pruning(arch, scores):
    """Group norms and slimming as that library computes them, group by group."""
    pruning = pytest.importorskip("torch_pruning")
    model = build_architecture(arch, {"num_classes": 10}, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    theirs = {
        magnitude_scores: pruning.importance.GroupMagnitudeImportance(p=2),
        bn_scale_scores: pruning.importance.BNScaleImportance(),
    }[scores]
    structure = analyse(model, torch.zeros(2, 3, 32, 32))
    ours = scores(model, structure)
    graph = pruning.DependencyGraph().build_dependency(model, torch.zeros(1, 3, 32, 32))
    compared = 0
    for c in structure.classes:
        layer = model.get_submodule(c.name)
        prune = pruning.prune_linear_out_channels if isinstance(layer, nn.Linear) else (
            pruning.prune_conv_out_channels)  # fmt: skip
        group = graph.get_pruning_group(layer, prune, idxs=list(range(c.size)))
        expected = theirs(group)
        if expected is None:
            assert bool(ours[c.units].isinf().all())
            continue
        torch.testing.assert_close(ours[c.units], expected, rtol=1e-4, atol=1e-6)
        compared += 1
    assert compared >= 8
