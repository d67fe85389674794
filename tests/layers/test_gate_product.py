"""The fast product equals plain multiplication, in value and in every gradient."""

import pytest
import torch

from bnnkit.layers.gate_product import gate_product


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2), (5, 3, 2, 2, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_gradients_equal_those_of_plain_multiplication(shape, layout):
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64)
    if layout == "strided":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    theta = torch.rand(*shape[:2], *[1] * (len(shape) - 2), dtype=torch.float64)
    results = []
    for product in (gate_product, torch.mul):
        a, t = x.clone().requires_grad_(), theta.clone().requires_grad_()
        y = product(a, t)
        (y * torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
        results.append((y.detach(), a.grad, t.grad))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_channels_last_keeps_its_layout():
    x = torch.randn(4, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    theta = torch.rand(4, 8, 1, 1, requires_grad=True)
    y = gate_product(x, theta)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    torch.testing.assert_close(theta.grad.flatten(1), x.sum((2, 3)))


def test_gates_follow_the_dtype_of_the_activations():
    y = gate_product(torch.ones(2, 3, dtype=torch.bfloat16), torch.full((2, 3), 0.5))
    assert y.dtype == torch.bfloat16
