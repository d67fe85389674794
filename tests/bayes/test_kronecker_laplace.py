"""The matrix-normal posterior against least squares solved anew for every set of columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bnnkit.bayes.kronecker_laplace import ColumnPosterior


def _problem(m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(m)
    units, out, extra = 5, 4, 2
    d = units * m + extra
    weight = torch.randn(out, d, generator=g, dtype=torch.float64)
    rows = torch.randn(60, d, generator=g, dtype=torch.float64) @ torch.randn(
        d, d, generator=g, dtype=torch.float64
    )
    grads = torch.randn(9, out, generator=g, dtype=torch.float64)
    groups = torch.randperm(d, generator=g)[: units * m].reshape(units, m)
    return weight, rows.T @ rows / 60, grads.T @ grads / 9, groups


def _least_rise(weight: Tensor, a: Tensor, gamma: Tensor, gone: Tensor) -> float:
    """Minimise tr(Γ D A Dᵀ) / 2 over D with D = -W on the columns that go, by brute force."""
    d = weight.shape[1]
    free = torch.tensor([i for i in range(d) if i not in set(gone.tolist())])
    change = torch.zeros_like(weight)
    change[:, gone] = -weight[:, gone]
    # the rows decouple in the minimiser, whatever Γ is: D_F = -D_S A_SF A_FF⁻¹
    change[:, free] = -change[:, gone] @ a[gone][:, free] @ torch.linalg.inv(a[free][:, free])
    return float(0.5 * torch.trace(gamma @ change @ a @ change.T))


@pytest.mark.parametrize("m", [1, 3])
def test_rises_are_those_of_the_best_remaining_weights(m: int) -> None:
    weight, a, gamma, groups = _problem(m)
    posterior = ColumnPosterior(weight, a, gamma, groups, damping=0.0)
    found = posterior.losses(torch.arange(5))
    for unit in range(5):
        assert float(found[unit]) == pytest.approx(_least_rise(weight, a, gamma, groups[unit]))


@pytest.mark.parametrize("chunks", [[[1], [4], [0]], [[1, 4], [0]], [[0, 1, 4]]])
def test_rises_add_up_over_any_way_to_remove_a_set(chunks: list[list[int]]) -> None:
    weight, a, gamma, groups = _problem(2)
    posterior = ColumnPosterior(weight, a, gamma, groups, damping=0.0)
    rise = sum(posterior.remove(torch.tensor(chunk)) for chunk in chunks)
    assert rise == pytest.approx(_least_rise(weight, a, gamma, groups[[0, 1, 4]].reshape(-1)))
    left = posterior.losses(torch.tensor([2]))
    whole = _least_rise(weight, a, gamma, groups[[0, 1, 4, 2]].reshape(-1))
    assert float(left) == pytest.approx(whole - rise)


def test_columns_that_say_the_same_cost_nothing_until_the_last_goes() -> None:
    a = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weight = torch.tensor([[1.0, 1.0, 0.5]])
    posterior = ColumnPosterior(
        weight, a, torch.eye(1), torch.tensor([[0], [1], [2]]), damping=1e-9
    )
    first = posterior.losses(torch.arange(3))
    assert float(first[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(first[2]) == pytest.approx(0.125, rel=1e-5)
    posterior.remove(torch.tensor([0]))
    assert float(posterior.losses(torch.tensor([1]))) == pytest.approx(2.0, rel=1e-5)  # (1 + 1)²/2
