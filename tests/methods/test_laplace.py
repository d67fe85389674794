"""The ranking by a matrix-normal posterior, against Fisher information by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.cost import macs_cost
from bnnkit.graph.structure import Structure
from bnnkit.methods.laplace import LaplaceEvidence
from bnnkit.methods.select import choose
from bnnkit.zoo import ZOO


def evidence(model: nn.Module, structure: Structure, x: Tensor, seed: int = 0) -> Tensor:
    found = LaplaceEvidence(model, structure, torch.Generator().manual_seed(seed))
    for part in x.split(128):
        found.accumulate(part)
    return found.costs()


def exact_gate_fisher(model: nn.Module, structure: Structure, x: Tensor) -> Tensor:
    """Return E[(d log p(y | x) / d gate)²] with the expectation over y taken in full."""
    total = torch.zeros(structure.n_units)
    for row in x:
        gates = torch.ones(structure.n_units, requires_grad=True)
        with attach(model, structure, FixedGates(gates)):
            scores = F.log_softmax(model(row[None]), 1)[0]
        for y in range(len(scores)):
            (slope,) = torch.autograd.grad(scores[y], gates, retain_graph=True)
            total += scores[y].exp().detach() * slope.square()
    return total / len(x)


def test_the_last_unit_of_a_class_adds_up_to_the_scale_of_the_exact_information() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.randn(1500, 6)
    structure = analyse(model, x[:2])
    costs = evidence(model, structure, x)
    exact = 0.5 * exact_gate_fisher(model, structure, x[:300])
    assert bool((costs >= 0).all())
    # compensation makes each first step cheaper than the gate alone
    first = int(costs.argmin())
    assert float(costs[first]) <= 1.1 * float(exact[first])
    assert float(costs.max()) < 3 * float(exact.sum())


def test_of_two_channels_that_say_the_same_the_first_costs_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[0].bias[1] = model[0].bias[0]
        model[2].weight[:, :2] = 1.5 * torch.randn(3, 2)
    x = torch.randn(1000, 6)
    structure = analyse(model, x[:2])
    costs = evidence(model, structure, x)
    twins = costs[:2].sort().values
    assert float(twins[0]) < 0.02 * float(twins[1])


def test_no_label_is_looked_at_and_the_same_seed_gives_the_same_order() -> None:
    torch.manual_seed(0)
    model = ZOO["mnist-lenet"]().eval()
    x = torch.rand(64, 1, 32, 32)
    structure = analyse(model, x[:2])
    assert torch.equal(evidence(model, structure, x), evidence(model, structure, x))


def test_costs_grow_along_the_order_in_which_units_go() -> None:
    torch.manual_seed(0)
    model = ZOO["resnet20-cifar"]().eval()
    x = torch.randn(32, 3, 32, 32)
    structure = analyse(model, x[:2])
    costs = evidence(model, structure, x)
    assert bool(costs.isfinite().all())
    cost = macs_cost(model, structure)
    full = cost.total(torch.ones(structure.n_units, dtype=torch.bool))
    for share in (0.8, 0.4):
        keep = choose(structure, costs, cost, share * full, cumulative=True)
        assert cost.total(keep) <= share * full
        for c in structure.classes:
            part, kept = costs[c.units], keep[c.units]
            if bool((~kept).any()) and bool(kept.any()):
                assert float(part[~kept].max()) <= float(part[kept].min())


def test_a_class_read_by_a_grouped_convolution_is_ranked_by_its_gates() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 1)
            self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))

    torch.manual_seed(0)
    model, x = Grouped().eval(), torch.randn(200, 3, 6, 6)
    structure = analyse(model, x[:2])
    costs = evidence(model, structure, x)
    c = next(c for c in structure.classes if c.name == "a")
    exact = exact_gate_fisher(model, structure, x[:100])[c.units]
    ranks = [v.argsort().argsort().double() for v in (costs[c.units], exact)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.5
    assert bool((costs[c.units] > 0).all())


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_cumulative_score_of_sums_chooses_what_the_sums_choose(cumulative: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).eval()
    structure = analyse(model, torch.randn(2, 6))
    score = torch.rand(9)
    order = score.argsort()
    summed = torch.empty(9)
    summed[order] = score[order].cumsum(0)
    cost = macs_cost(model, structure)
    target = 0.5 * cost.total(torch.ones(9, dtype=torch.bool))
    keep = choose(structure, summed if cumulative else score, cost, target, cumulative=cumulative)
    assert bool(keep[order[-int(keep.sum()) :]].all())


def test_a_class_that_no_gradient_reaches_is_kept_and_one_read_by_keyword_is_ranked() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = torch.relu(self.b(torch.relu(self.a(x))))
            return self.c(input=x)

    torch.manual_seed(0)
    model, x = Cut().eval(), torch.randn(200, 6)
    structure = analyse(model, x[:2])
    costs = evidence(model, structure, x)
    by_name = {c.name: costs[c.units] for c in structure.classes}
    assert bool(by_name["a"].isinf().all())
    assert bool(by_name["b"].isfinite().all())
    assert float(by_name["b"].max()) > 0
