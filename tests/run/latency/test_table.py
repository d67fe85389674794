"""A table made of a formula: the cost follows it, and the steps that pay are found."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from bnnkit.errors import DataError, StructureError
from bnnkit.graph.analyse import analyse
from bnnkit.methods.select import choose
from bnnkit.run.latency.table import (
    LatencyCost,
    LatencyTable,
    LayerTimes,
    LayerUse,
    interpolation,
)


def model():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


STRUCTURE = analyse(model(), torch.zeros(2, 3, 8, 8))
EVERY = tuple(range(1, 33)), tuple(range(1, 49))
FIXED, PER_VALUE = 0.5, 1e-4


def table(times, widths=EVERY):
    """Return the table that a formula `times(out, in)` of the width in ms would give."""
    sizes = [(widths[0], (3,)), (widths[1], widths[0]), ((10,), widths[1])]
    measured = tuple(
        LayerTimes(f"layer {i}", out, into, tuple(tuple(times(o, n) for n in into) for o in out))
        for i, (out, into) in enumerate(sizes)
    )
    uses = (LayerUse("0", 0, 1, 64), LayerUse("2", 1, 2, 128), LayerUse("6", 2, 1, 1))
    return LatencyTable("torch", "cpu", "a processor", 1, 4, 9.9, FIXED, PER_VALUE, measured, uses)


def expected(times, keep):
    a, b = (int(keep[c.units].sum()) for c in STRUCTURE.classes)
    values = 64 * a + 128 * b + 10
    return FIXED + PER_VALUE * values + times(a, 3) + 2 * times(b, a) + times(10, b)


def linear(out, into):
    return 0.01 * out + 0.02 * into + 1e-3 * out * into


def stairs(out, into):
    return math.ceil(out / 8) * math.ceil(into / 8)


def random_keep(seed, share=0.6):
    score = torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(seed))
    return STRUCTURE.ensure_alive(score < share, score)[0]


@pytest.mark.parametrize("times", [linear, stairs])
def test_the_total_is_the_sum_over_layers(times):
    cost = LatencyCost(table(times), STRUCTURE)
    assert cost.unit == "ms"
    for seed in range(5):
        keep = random_keep(seed)
        assert cost.total(keep) == pytest.approx(expected(times, keep), rel=1e-12)


@pytest.mark.parametrize("times", [linear, stairs])
def test_marginals_and_paths_are_differences(times):
    cost = LatencyCost(table(times), STRUCTURE)
    keep = random_keep(7)
    marginal = cost.marginal(keep)
    for unit in range(STRUCTURE.n_units):
        without = keep.clone()
        without[unit] = False
        change = expected(times, keep) - expected(times, without) if keep[unit] else 0.0
        assert float(marginal[unit]) == pytest.approx(change, abs=1e-9)
    for c in STRUCTURE.classes:
        order = (c.first + keep[c.units].nonzero().reshape(-1))[:-1]
        (path,) = cost.paths(keep, [order])
        after = keep.clone()
        for unit, saved in zip(order.tolist(), path.tolist(), strict=True):
            after[unit] = False
            change = expected(times, keep) - expected(times, after)
            assert saved == pytest.approx(change, abs=1e-9)


def test_a_path_of_no_units_is_empty():
    cost = LatencyCost(table(linear), STRUCTURE)
    (path,) = cost.paths(random_keep(0), [torch.zeros(0, dtype=torch.long)])
    assert path.shape == (0,)


def test_a_bilinear_time_is_interpolated_exactly_within_the_measured_widths():
    few = (1, 4, 8, 16, 20, 31, 28, 32), (1, 4, 8, 17, 24, 44, 47, 48)
    cost = LatencyCost(table(linear, tuple(tuple(sorted(w)) for w in few)), STRUCTURE)
    for seed in range(5):
        keep = random_keep(seed)
        assert cost.total(keep) == pytest.approx(expected(linear, keep), rel=1e-12)


def test_interpolation_stays_among_widths_of_one_kind():
    measured = [1, 4, 8, 9, 12, 15, 16]
    weights = interpolation(measured)
    assert weights.shape == (17, 7)
    torch.testing.assert_close(weights.sum(1), torch.ones(17, dtype=torch.float64))
    for i, width in enumerate(measured):
        assert weights[width].tolist() == [float(j == i) for j in range(7)]
    assert weights[11].nonzero().reshape(-1).tolist() == [3, 5]  # 9 and 15, never 12
    assert weights[2].nonzero().reshape(-1).tolist() == [0, 3]


@pytest.mark.parametrize(("step", "found"), [(1, 1), (4, 4), (8, 8), (16, 16)])
def test_the_step_that_pays_is_found(step, found):
    def times(out, into):
        return 0.1 + math.ceil(out / step) * step * math.ceil(into / step) * step

    made = table(times)
    # the first layer has one width in, the last one width out
    assert made.blocks() == {"0": found, "2": found, "6": found}
    assert made.block() == found


def test_where_odd_widths_are_slow_rounding_up_pays():
    def times(out, into):
        return out * into * (1.5 if into % 4 or out % 4 else 1.0)

    assert table(times).block() >= 4


def test_the_choice_takes_whole_stairs():
    cost = LatencyCost(table(stairs), STRUCTURE)
    score = torch.rand(STRUCTURE.n_units, generator=torch.Generator().manual_seed(0))
    full = cost.total(torch.ones(STRUCTURE.n_units))
    keep = choose(STRUCTURE, score, cost, 0.6 * full)
    assert cost.total(keep) <= 0.6 * full
    widths = [int(keep[c.units].sum()) for c in STRUCTURE.classes]
    # the part that follows the values may take single units to the very target
    assert sum(-w % 8 for w in widths) <= 8


def test_json_gives_the_same_table():
    made = table(linear)
    assert LatencyTable.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["layers"][1]["name"] == "2"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "times": 3}'])
def test_other_files_are_refused(text):
    with pytest.raises(DataError, match="latency table"):
        LatencyTable.from_json(text)


def test_a_table_of_another_model_is_refused():
    made = table(linear, (tuple(range(1, 17)), EVERY[1]))
    with pytest.raises(StructureError, match="'0' with 16 channels"):
        LatencyCost(made, STRUCTURE)


def test_nothing_to_round_is_said():
    made = table(linear, ((32,), (48,)))
    with pytest.raises(StructureError, match="--round-to"):
        made.block()
