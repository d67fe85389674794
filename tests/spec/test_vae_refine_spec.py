"""What a refinement can be told: meaningless values are refused, defaults follow the optimiser."""

import pytest

from bnnkit.errors import UsageError
from bnnkit.spec.vae_refine import DRAWS, FULL_DRAWS, RATES, RefineConfig, matrix_shape


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"family": "diagonal"}, "--family"),
        ({"family": "mn:RxC"}, "--family"),
        ({"family": "mn:0x4"}, "--family"),
        ({"family": "mn:5x"}, "--family"),
        ({"optimiser": "adm"}, "Did you mean 'adam'"),
        ({"family": "flow"}, "--optimiser"),
        ({"steps": -1}, "--steps"),
        ({"samples": 0}, "--samples"),
        ({"batch_size": 0}, "--batch-size"),
        ({"judge_samples": 1}, "--judge-samples"),
        ({"report_samples": 1}, "--report-samples"),
        ({"seed": -1}, "--seed"),
        ({"lr": 0.0}, "--lr"),
        ({"lr": float("nan")}, "--lr"),
    ],
)
def test_values_without_meaning_are_refused(values, option):
    with pytest.raises(UsageError, match=option):
        RefineConfig(**values)


@pytest.mark.parametrize("optimiser", RATES)
def test_rate_and_draws_follow_the_optimiser_unless_given(optimiser):
    config = RefineConfig(optimiser=optimiser)
    assert (config.rate, config.draws) == (RATES[optimiser], DRAWS[optimiser])
    given = RefineConfig(optimiser=optimiser, lr=0.25, samples=7)
    assert (given.rate, given.draws) == (0.25, 7)


def test_a_full_covariance_takes_more_draws():
    assert RefineConfig(family="full").draws == FULL_DRAWS
    assert RefineConfig(family="full", optimiser="adam").draws == DRAWS["adam"]


def test_matrix_shapes():
    assert matrix_shape("mn:20x2") == (20, 2)
    assert matrix_shape("diag") is None
