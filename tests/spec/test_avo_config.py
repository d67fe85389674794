"""What `avo-toy` refuses."""

from __future__ import annotations

import pytest

from bnnkit.bayes import annealing
from bnnkit.errors import UsageError
from bnnkit.spec import avo
from bnnkit.spec.avo import AvoToyConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ("avoo",)}, "Did you mean 'avo'"),
        ({"methods": ()}, "nothing to train"),
        ({"methods": ("avo", "avo")}, "named twice"),
        ({"schedule": "cubic"}, "--schedule"),
        ({"transitions": 0}, "--transitions"),
        ({"steps": 0}, "--steps"),
        ({"batch_size": 1}, "--batch-size"),
        ({"lr": 0.0}, "--lr"),
        ({"spacing": float("nan")}, "--spacing"),
        ({"spread": -1.0}, "--spread"),
        ({"warm": 1.5}, "--warm"),
        ({"bias": -1.0}, "--bias"),
    ],
)
def test_settings_without_a_meaning(settings, words):
    with pytest.raises(UsageError, match=words):
        AvoToyConfig(**settings)


def test_the_schedules_are_those_that_exist():
    assert avo.SCHEDULES == annealing.SCHEDULES
