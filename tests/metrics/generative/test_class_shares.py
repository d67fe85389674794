"""The class histogram and its distance to another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.errors import DataError
from bnnkit.metrics.generative import class_shares, total_variation


def test_shares_count_the_most_likely_class():
    p = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.4, 0.3, 0.3], [0.5, 0.2, 0.3]])
    got = class_shares(p)
    assert got.dtype == torch.float64
    assert got.tolist() == [0.75, 0.25, 0.0]


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.lists(st.floats(0.01, 1),
       min_size=4, max_size=4))  # fmt: skip
def test_total_variation_is_the_largest_difference_of_any_event(a, b):
    a, b = (torch.tensor(x).double() for x in (a, b))
    a, b = a / a.sum(), b / b.sum()
    events = [[i for i in range(4) if bits >> i & 1] for bits in range(16)]
    largest = max(float(a[e].sum() - b[e].sum()) for e in events)
    assert total_variation(a, b) == pytest.approx(largest, abs=1e-12)


def test_total_variation_of_known_shares():
    a = torch.tensor([0.5, 0.5, 0.0])
    assert total_variation(a, a) == 0
    assert total_variation(a, torch.tensor([0.0, 0.0, 1.0])) == 1
    assert total_variation(a, torch.tensor([0.25, 0.5, 0.25])) == 0.25


def test_refusals():
    with pytest.raises(DataError, match=r"\[0, 3\]"):
        class_shares(torch.zeros(0, 3))
    with pytest.raises(DataError, match="same classes"):
        total_variation(torch.ones(1), torch.full((2,), 0.5))
