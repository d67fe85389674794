"""Weights of the divergence over time, by their own formulas."""

import math

import pytest

from bnnkit.methods.vae.schedules import kl_weight
from bnnkit.spec.vae_fit import KL_SCHEDULES


@pytest.mark.parametrize("name", KL_SCHEDULES)
def test_weights_start_where_they_should_and_end_at_one(name):
    times = [0.1 * i for i in range(401)]
    weights = [kl_weight(name, t, epochs=10, start=0.04, gamma=0.05) for t in times]
    assert all(0 < w <= 1 for w in weights)
    assert weights[0] == (1.0 if name == "none" else pytest.approx(0.04))
    if name != "cyclical":
        assert weights == sorted(weights)
        assert weights[-1] == 1


def test_their_values():
    assert kl_weight("linear", 2.5, epochs=10, start=0.2) == pytest.approx(0.4)
    middle = kl_weight("exponential", 5, epochs=10, start=0.04)
    assert middle == pytest.approx(math.sqrt(0.04))  # geometric: the middle is the root
    assert kl_weight("warm-up", 3, start=0.1, gamma=0.2) == pytest.approx(0.7)
    cycle = [kl_weight("cyclical", t, epochs=4, start=0.2) for t in (0, 1, 2, 3.9, 4, 5)]
    assert cycle == pytest.approx([0.2, 0.6, 1, 1, 0.2, 0.6])
    with pytest.raises(ValueError, match="no schedule"):
        kl_weight("sawtooth", 1)
