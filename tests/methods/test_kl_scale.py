"""The weight of the KL term: warmed up, or found by an ascent that has to settle."""

import math

import pytest
import torch

from bnnkit.methods.kl_scale import DualAscent, KlScale


def test_a_warm_up_grows_from_nothing_to_one():
    scale = KlScale(warmup=0.5)
    assert [scale(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert KlScale()(0.0) == 1.0


class Plant:
    """Units with thresholds on a log weight, which follow it with a lag of many steps."""

    def __init__(self, units, low, high, lag):
        self.thresholds = torch.linspace(low, high, units)
        self.state, self.lag = 0.0, lag

    def step(self, scale):
        self.state += (math.log(scale) - self.state) / self.lag

    def share(self):
        return float((self.thresholds > self.state).double().mean())


@pytest.mark.parametrize("target", [0.75, 0.5, 0.2])
@pytest.mark.parametrize(("low", "high"), [(1.0, 8.0), (5.0, 12.0), (-3.0, 2.0)])
def test_the_ascent_settles_where_the_cost_is_what_was_asked(target, low, high):
    plant = Plant(400, low, high, lag=40)
    ascent = DualAscent(target, plant.share, 1000)
    for step in range(1000):
        plant.step(ascent(step / 1000))
    assert abs(plant.share() - target) < 0.06


def test_its_state_is_what_a_resumed_run_needs():
    shares = iter([1.0, 0.9, 0.8, 0.7])
    whole = DualAscent(0.5, lambda: next(shares), 1000)
    first = [whole(p) for p in (0.1, 0.2)]
    resumed = DualAscent(0.5, iter([0.8]).__next__, 1000)
    resumed.load_state_dict(whole.state_dict())
    assert resumed(0.3) == whole(0.3)
    assert first[0] > 1.0
