"""The union-find over labels."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.graph.labels import NEUTRAL, Labels, collapse, varying_axes


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=20))
def test_classes_are_connected_components(pairs):
    labels = Labels()
    labels.fresh(12)
    for a, b in pairs:
        labels.unite(torch.tensor([a]), torch.tensor([b]))
    component = {n: {n} for n in range(1, 13)}
    for a, b in pairs:  # naive merging of sets
        merged = component[a] | component[b]
        for n in merged:
            component[n] = merged
    for n in range(1, 13):
        assert labels.find(n) == min(component[n])


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), max_size=10),
    st.sets(st.integers(1, 8)),
    st.booleans(),
)
def test_a_lock_holds_for_the_whole_class(pairs, locked, lock_first):
    labels = Labels()
    labels.fresh(8)
    if lock_first:
        labels.lock(torch.tensor(sorted(locked), dtype=torch.long), "why")
    for a, b in pairs:
        labels.unite(torch.tensor([a]), torch.tensor([b]))
    if not lock_first:
        labels.lock(torch.tensor(sorted(locked), dtype=torch.long), "why")
    roots = {labels.find(n) for n in locked}
    for n in range(1, 9):
        assert labels.reason(n) == ("why" if labels.find(n) in roots else None)


def test_neutral_ties_and_locks_nothing():
    labels = Labels()
    ids = labels.fresh(2)
    labels.unite(ids, torch.full((2,), NEUTRAL))
    labels.lock(torch.tensor([NEUTRAL]), "why")
    assert labels.find(1) != labels.find(2)
    assert labels.reason(NEUTRAL) is None


def test_the_first_reason_is_kept():
    labels = Labels()
    ids = labels.fresh(1)
    labels.lock(ids, "first")
    labels.lock(ids, "second")
    assert labels.reason(1) == "first"


def test_collapse_shrinks_uniform_axes():
    ids = torch.tensor([1, 2, 3]).reshape(1, 3, 1).expand(2, 3, 4)
    assert collapse(ids).shape == (1, 3, 1)
    assert collapse(ids.contiguous()).shape == (1, 3, 1)
    assert varying_axes(ids.contiguous()) == [1]
    assert varying_axes(torch.arange(4).reshape(2, 2)) == [0, 1]
    assert varying_axes(torch.ones(3)) == []
