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
        ({"family": "flow", "optimiser": "natural"}, "--optimiser"),
        ({"steps": -1}, "--steps"),
        ({"samples": 0}, "--samples"),
        ({"batch_size": 0}, "--batch-size"),
        ({"judge_samples": 1}, "--judge-samples"),
        ({"report_samples": 1}, "--report-samples"),
        ({"seed": -1}, "--seed"),
        ({"lr": 0.0}, "--lr"),
        ({"optimiser": "ais", "lr": 1.5}, "--lr 0.1"),
        ({"optimiser": "centre", "samples": 4}, "--samples"),
        ({"optimiser": "straight-through", "steps": 0}, "--steps"),
        ({"optimiser": "ais", "family": "full"}, "--family"),
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
    samples = None if optimiser == "centre" else 7
    given = RefineConfig(optimiser=optimiser, lr=0.25, samples=samples)
    assert (given.rate, given.draws) == (0.25, samples or 0)


def test_a_full_covariance_takes_more_draws():
    assert RefineConfig(family="full").draws == FULL_DRAWS
    assert RefineConfig(family="full", optimiser="adam").draws == DRAWS["adam"]


def test_the_kind_of_latents_settles_the_optimiser():
    assert RefineConfig().for_latents(binary=False).optimiser == "natural"
    config = RefineConfig().for_latents(binary=True)
    assert (config.optimiser, config.rate, config.draws) == ("ais", 0.1, 20)
    assert (RefineConfig().judged, RefineConfig().reported) == (6, 16)
    assert (config.judged, config.reported) == (20, 100)
    assert RefineConfig(optimiser="centre").for_latents(binary=True).method == "centre"
    for values, binary, words in (
        (
            {"optimiser": "adam"},
            True,
            "are binary. Use --optimiser ais, centre or straight-through",
        ),
        ({"optimiser": "ais"}, False, "are continuous. Use --optimiser adam, sgd, rmsprop or nat"),
        ({"family": "full"}, True, "a Bernoulli of each"),
        ({"lr": 1.5}, True, "at most 1"),
        ({"steps": 0}, True, "at least 1"),
    ):
        with pytest.raises(UsageError, match=words):
            RefineConfig(**values).for_latents(binary=binary)


def test_matrix_shapes():
    assert matrix_shape("mn:20x2") == (20, 2)
    assert matrix_shape("diag") is None


def test_a_flow_is_refined_by_what_can():
    assert RefineConfig(family="flow").for_latents(binary=False).optimiser == "adam"
    assert RefineConfig(family="full").for_latents(binary=False).optimiser == "natural"
