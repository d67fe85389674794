"""Settings of weight posteriors: values without meaning are refused in words."""

from __future__ import annotations

import math

import pytest

from bnnkit.errors import UsageError
from bnnkit.spec.posterior_config import GROUPS, LOG_SIGMA_RANGE, PosteriorConfig


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("--noise-lr", {"noise_lr": 0.0}),
        ("--kl-scale", {"kl_scale": -1.0}),
        ("--kl-scale", {"kl_scale": math.inf}),
        ("--kl-anneal", {"kl_anneal": 1.5}),
        ("--kl-start", {"kl_start": 0.0}),
        ("--kl-start", {"kl_start": 2.0}),
        ("--init-log-sigma", {"init_log_sigma": 6.0}),
        ("--init-log-sigma", {"init_log_sigma": math.nan}),
        ("--threshold", {"threshold": math.nan}),
        ("--groups", {"groups": "row"}),
    ],
)
def test_a_value_without_meaning_is_refused(option, settings):
    with pytest.raises(UsageError, match=option) as refusal:
        PosteriorConfig(**settings)
    assert repr(next(iter(settings.values()))) in str(refusal.value)


def test_a_near_miss_is_answered():
    with pytest.raises(UsageError, match="Did you mean 'rows'"):
        PosteriorConfig(groups="row")


@pytest.mark.parametrize("groups", GROUPS)
def test_what_has_a_meaning_is_taken(groups):
    low, high = LOG_SIGMA_RANGE
    for value in (low, high):
        config = PosteriorConfig(
            groups=groups, init_log_sigma=value, kl_anneal=1.0, kl_start=1.0, noise_lr=1e-3
        )
        assert config.init_log_sigma == value
