"""Patches times the weight matrix are the layer, whatever its stride, padding and dilation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnnkit.graph.patches import column_units, is_regression, outputs, patches, positions

LAYERS = [
    (nn.Linear(5, 3), (5,)),
    (nn.Linear(5, 3, bias=False), (4, 5)),
    (nn.Conv1d(2, 3, 3, padding="same", dilation=2), (2, 9)),
    (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 8)),
    (nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)), (2, 9, 8)),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 6)),
    (nn.Conv2d(2, 3, 3, padding=(1, 0), padding_mode="circular"), (2, 5, 6)),
    (nn.Conv3d(2, 3, 2, stride=2), (2, 4, 5, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v)[:40])
def test_patches_times_the_weight_matrix_are_the_layer(
    layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    y = layer(x)
    n = positions(y, layer)
    at = torch.randperm(n)[: max(1, n // 2)]
    found = patches(x, layer, at) @ layer.weight.flatten(1).T
    if layer.bias is not None:
        found = found + layer.bias
    torch.testing.assert_close(found, outputs(y, layer)[:, at], rtol=1e-4, atol=1e-5)


def test_columns_belong_to_the_unit_of_their_channel() -> None:
    units = column_units(nn.Conv2d(3, 2, (2, 1)), torch.tensor([4, -1, 0]))
    assert units.tolist() == [4, 4, -1, -1, 0, 0]


def test_a_grouped_convolution_is_no_regression() -> None:
    assert is_regression(nn.Conv2d(4, 4, 3))
    assert not is_regression(nn.Conv2d(4, 4, 3, groups=2))
    assert not is_regression(nn.ReLU())
