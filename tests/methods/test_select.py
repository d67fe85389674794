"""The choice: it reaches the target as closely as units allow, and gives the least score away."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnnkit.errors import TrainingError, UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.cost import macs_cost
from bnnkit.methods.select import choose


class Residual(nn.Module):
    """A stream with two branches: the stream's units have several writers and readers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.a2(torch.relu(self.a1(x))))
        x = torch.relu(x + self.b2(torch.relu(self.b1(x))))
        return self.head(x.mean((2, 3)))


MODEL = Residual()
STRUCTURE = analyse(MODEL, torch.zeros(2, 2, 6, 6))
COST = macs_cost(MODEL, STRUCTURE)
FULL = COST.total(torch.ones(STRUCTURE.n_units))
LEAST = COST.total(STRUCTURE.ensure_alive(torch.zeros(STRUCTURE.n_units).bool(),
                                          torch.zeros(STRUCTURE.n_units))[0])  # fmt: skip

scores = st.integers(0, 2**31).map(
    lambda seed: torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(seed))
)


def alive(structure, keep):
    structure.kept_indices(keep)  # which refuses an axis that is left empty
    return True


@settings(max_examples=40, deadline=None)
@given(scores, st.floats(LEAST / FULL, 1.0), st.booleans(), st.sampled_from([1, 2, 4, 8]))
def test_the_target_is_held_as_closely_as_units_allow(score, share, per_cost, round_to):
    target = share * FULL
    try:
        keep = choose(STRUCTURE, score, COST, target, per_cost=per_cost, round_to=round_to)
    except UsageError:
        assert round_to > 1  # the least with blocks is more than the least with units
        return
    assert COST.total(keep) <= target
    assert alive(STRUCTURE, keep)
    for c in STRUCTURE.classes:
        width = int(keep[c.units].sum())
        assert width % round_to == 0 or width == c.size
        closed = c.first + (~keep[c.units]).nonzero().reshape(-1)
        if len(closed):
            back = closed[score[closed].argsort(descending=True)]
            wider = keep.clone()
            wider[back[: round_to - width % round_to]] = True
            assert COST.total(wider) > target
            # within a class the best stay
            assert width == 0 or float(score[c.units][keep[c.units]].min()) >= float(
                score[closed].max()
            )


def test_a_target_that_is_met_closes_nothing():
    assert bool(choose(STRUCTURE, torch.rand(STRUCTURE.n_units), COST, FULL).all())


def test_the_least_is_reached_and_less_is_refused_with_both_numbers():
    score = torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(0))
    keep = choose(STRUCTURE, score, COST, LEAST)
    assert COST.total(keep) == LEAST
    with pytest.raises(UsageError) as caught:
        choose(STRUCTURE, score, COST, LEAST - 1)
    assert f"{LEAST - 1:,.6g} MACs" in caught.value.what
    assert f"{LEAST:,.6g} MACs" in caught.value.found


def test_without_cost_the_lowest_scores_go():
    score = torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(3))
    keep = choose(STRUCTURE, score, COST, 0.7 * FULL, per_cost=False)
    order = score.argsort()
    closed = 0
    while COST.total(~torch.isin(torch.arange(len(score)), order[:closed])) > 0.7 * FULL:
        closed += 1
    assert bool(keep[order[closed:]].all())
    # what still fits once the last has gone comes back
    assert int(keep[order[:closed]].sum()) <= 3


def test_cost_weighing_gives_less_score_away():
    score = torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(5))
    lost = {
        (share, weigh): float(
            score[~choose(STRUCTURE, score, COST, share * FULL, per_cost=weigh)].sum()
        )
        for share in (0.7, 0.5, 0.3)
        for weigh in (True, False)
    }
    assert all(lost[share, True] <= lost[share, False] for share in (0.7, 0.5, 0.3))
    assert lost[0.3, True] < 0.9 * lost[0.3, False]


def test_near_the_best_of_all_choices():
    """Every choice of a small net is tried: the greedy one loses little more than the best."""
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2))
    structure = analyse(model, torch.zeros(2, 5))
    cost = macs_cost(model, structure)
    keeps = torch.tensor(list(itertools.product((False, True), repeat=13)))
    keeps = keeps[keeps[:, :6].any(1) & keeps[:, 6:].any(1)]
    totals = torch.tensor([cost.total(keep) for keep in keeps])
    gaps = []
    for seed in range(5):
        score = torch.rand(13, generator=torch.Generator().manual_seed(seed))
        for share in (0.8, 0.5):
            target = share * float(totals.max())
            best = float((keeps[totals <= target].float() @ score).max())
            got = float(score[choose(structure, score, cost, target)].sum())
            gaps.append(1 - got / best)
    assert max(gaps) < 0.15
    assert sum(gaps) / len(gaps) < 0.06


class Stairs:
    """A cost that falls only where a width passes a multiple of four."""

    unit = "ms"

    def total(self, keep):
        return float(sum(-(-int(keep[c.units].sum()) // 4) for c in STRUCTURE.classes))

    def marginal(self, keep):
        return torch.zeros(len(keep))

    def paths(self, keep, orders):
        out = []
        for order in orders:
            after, saved = keep.clone(), []
            for unit in order.tolist():
                after[unit] = False
                saved.append(self.total(keep) - self.total(after))
            out.append(torch.tensor(saved, dtype=torch.float64))
        return out


def test_stairs_are_taken_whole():
    """Where time comes in blocks of channels no unit is given away for nothing."""
    score = torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(1))
    cost = Stairs()
    full = cost.total(torch.ones(STRUCTURE.n_units).bool())
    for target in range(4, int(full)):
        keep = choose(STRUCTURE, score, cost, target)
        assert cost.total(keep) == target
        for c in STRUCTURE.classes:
            width = int(keep[c.units].sum())
            assert width % 4 == 0 or width == c.size


def test_infinite_scores_stay_and_no_numbers_are_refused():
    score = torch.rand(STRUCTURE.n_units)
    score[STRUCTURE.classes[0].units] = math.inf
    keep = choose(STRUCTURE, score, COST, 0.5 * FULL)
    assert bool(keep[STRUCTURE.classes[0].units].all())
    with pytest.raises(UsageError):
        choose(STRUCTURE, score, COST, LEAST)
    score[3] = math.nan
    with pytest.raises(TrainingError, match="1 scores"):
        choose(STRUCTURE, score, COST, 0.5 * FULL)


def test_units_of_several_channels_count_as_many():
    model = nn.Sequential(
        nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4, 2),
    )  # fmt: skip
    structure = analyse(model, torch.zeros(2, 2, 2, 2))
    assert {c.multiplicity for c in structure.classes} == {2}
    cost = macs_cost(model, structure)
    score = torch.rand(structure.n_units, generator=torch.Generator().manual_seed(0))
    keep = choose(structure, score, cost, 0.6 * cost.total(torch.ones(len(score))), round_to=8)
    assert {2 * int(keep[c.units].sum()) % 8 for c in structure.classes} == {0}
