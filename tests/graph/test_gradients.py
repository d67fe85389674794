"""Graphs of modules that take gradients, against autograd itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bnnkit.graph.gradients import without_autograd


class InputGradient(nn.Module):
    """The gradient of a net's sum of squares with respect to its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(self.net(leaf).square().sum(), leaf)[0]


NETS = {
    "linear": (nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (6,)),
    "softplus": (nn.Sequential(nn.Linear(6, 5), nn.Softplus(), nn.LayerNorm(5)), (6,)),
    "conv": (nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 3, 4)), (2, 11, 9)),
    "grouped": (nn.Conv2d(4, 8, 3, 2, 1, dilation=2, groups=2), (4, 10, 13)),
    "transposed": (
        nn.Sequential(
            nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.GELU(),
            nn.ConvTranspose2d(4, 2, 3, 3, 0, output_padding=1, groups=2), nn.Sigmoid(),
        ),
        (3, 4, 5),
    ),
    "pooled": (nn.Sequential(nn.Conv1d(2, 3, 3), nn.SiLU(), nn.AvgPool1d(2)), (2, 12)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_the_gradient_at_any_batch(name: str) -> None:
    torch.manual_seed(0)
    net, shape = NETS[name]
    module = InputGradient(net.double()).eval()
    graph = without_autograd(module, [torch.randn(7, *shape, dtype=torch.float64)])
    program = torch.export.export(
        graph,
        (torch.randn(7, *shape, dtype=torch.float64),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    x = torch.randn(3, *shape, dtype=torch.float64)
    expected = module(x)
    torch.testing.assert_close(graph(x), expected)
    torch.testing.assert_close(program.module()(x), expected)


def test_a_weights_gradient_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                out = self.conv(x).square().sum()
                return torch.autograd.grad(out, self.conv.weight)[0]

    with pytest.raises(RuntimeError, match="weight"):
        without_autograd(Both(), [torch.randn(4, 2, 6, 6)])


class Factored(nn.Module):
    """What a Newton step needs: a factor, a solve by it, and one by each triangle."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        factor, _ = torch.linalg.cholesky_ex(a @ a.mT + torch.eye(4).to(a))
        lower = torch.linalg.solve_triangular(factor, b, upper=False)
        upper = torch.linalg.solve_triangular(factor.mT, b, upper=True)
        return factor, torch.cholesky_solve(b, factor), lower, upper


def test_linear_algebra_is_written_out() -> None:
    source = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, k, dtype=torch.float64, generator=source) for k in (4, 3))
    graph = without_autograd(Factored(), [a, b])
    assert not any("linalg" in str(node.target) or "cholesky" in str(node.target)
                   for node in graph.graph.nodes)  # fmt: skip
    for found, expected in zip(graph(a, b), Factored()(a, b), strict=True):
        torch.testing.assert_close(found, expected)
