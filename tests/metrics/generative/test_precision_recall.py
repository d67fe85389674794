"""Precision and recall against a loop over all pairs, and where they are known."""

from __future__ import annotations

import pytest
import torch

from bnnkit.errors import DataError
from bnnkit.metrics.generative import precision_recall


def draw(n, d, seed, shift=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=g) + shift


def brute(real, fake, k):
    def distance(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5

    def inside(points, members):
        radii = [
            sorted(distance(m, o) for j, o in enumerate(members) if j != i)[k - 1]
            for i, m in enumerate(members)
        ]
        hits = [
            any(distance(p, m) <= r for m, r in zip(members, radii, strict=True)) for p in points
        ]
        return sum(hits) / len(points)

    real, fake = real.double().tolist(), fake.double().tolist()
    return inside(fake, real), inside(real, fake)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "shift", "scale"), [(40, 55, 0.5, 1), (60, 30, 0, 0.4)])
def test_equals_the_loop(k, n, m, shift, scale):
    real, fake = draw(n, 3, 0), draw(m, 3, 1, shift, scale)
    wanted = brute(real, fake, k)
    assert 0 < min(wanted) < 1
    for block in (1, 7, 1000):
        assert precision_recall(real, fake, k, block=block) == pytest.approx(wanted)


def test_far_from_the_origin():
    """Squared distances from products lose digits with the length of the rows, unless centred."""
    real, fake = draw(60, 3, 0, 1e4), draw(60, 3, 1, 1e4)
    assert precision_recall(real, fake) == pytest.approx(brute(real, fake, 3))


def test_the_same_set():
    x = draw(100, 8, 0, 3.0)
    assert precision_recall(x, x) == (1, 1)


def test_sets_apart():
    assert precision_recall(draw(50, 2, 0), draw(50, 2, 1, 100.0)) == (0, 0)


def test_one_mode_of_two_has_full_precision_and_half_the_recall():
    left, right = draw(200, 2, 0), draw(200, 2, 1, 50.0)
    fake = draw(200, 2, 0) + 1e-3
    precision, recall = precision_recall(torch.cat([left, right]), fake)
    assert precision > 0.95
    assert recall == pytest.approx(0.5, abs=0.01)


def test_repeated_samples_reach_nothing_but_themselves():
    """Balls of radius 0 hold equal rows, whatever their products round to."""
    real = draw(64, 84, 0, 5.0, 30.0)
    fake = real[:8].repeat(8, 1)
    assert precision_recall(real, fake) == (1, 8 / 64)


def test_refusals():
    with pytest.raises(DataError, match="neighbour 3 of 3 real"):
        precision_recall(draw(3, 2, 0), draw(9, 2, 0))
    with pytest.raises(DataError, match="same extractor"):
        precision_recall(draw(9, 2, 0), draw(9, 3, 0))
    with pytest.raises(DataError, match="not a finite number"):
        precision_recall(draw(9, 2, 0), draw(9, 2, 0) / 0)
