"""What `vae-fit` may be told."""

import pytest

from bnnkit.errors import UsageError
from bnnkit.spec.vae_fit import VaeFitConfig, parse_posterior


@pytest.mark.parametrize("text", ["diag", "full", "mn:20x2", "hvi:5", "iaf:2", "planar:10"])
def test_a_posterior_is_written_as_it_is_read(text):
    assert str(parse_posterior(text)) == text


@pytest.mark.parametrize(
    "text", ["gauss", "mn", "mn:20", "mn:0x2", "mn:axb", "full:3", "hvi:2x2", "iaf:-1", "diag:1"]
)
def test_other_posteriors_are_refused(text):
    with pytest.raises(UsageError, match="--posterior"):
        parse_posterior(text)


def test_draws_and_estimators_follow_the_objective():
    assert VaeFitConfig().draws == 1
    assert VaeFitConfig(objective="iwae").draws == 5
    assert VaeFitConfig(objective="air").draws == 20
    assert VaeFitConfig(objective="iwae", samples=3).draws == 3
    assert VaeFitConfig().analytic
    assert not VaeFitConfig(estimator="A").analytic
    assert not VaeFitConfig(posterior="iaf").analytic
    assert not VaeFitConfig(objective="iwae").analytic


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"objective": "elb"}, "Did you mean 'elbo'"),
        ({"objective": "iwae", "samples": 1}, "it is the ELBO"),
        ({"objective": "avo"}, "--posterior hvi:5"),
        ({"estimator": "B", "posterior": "iaf"}, "no closed form"),
        ({"estimator": "A", "objective": "iwae"}, "one of the ELBO"),
        ({"beta": 4.0}, "--objective beta"),
        ({"alpha": 0.9}, "--objective alpha"),
        ({"alpha": -1.0, "objective": "alpha"}, "bounds nothing"),
        ({"gamma": 3.0}, "--kl-schedule"),
        ({"beta0": 0.5}, "--kl-schedule"),
        ({"kl_epochs": 3}, "--kl-schedule"),
        ({"refine_lr": 0.3}, "--refine 20"),
        ({"kl_schedule": "linear", "objective": "avo", "posterior": "hvi"}, "weighs"),
        ({"refine": 5, "posterior": "full"}, "diagonal"),
        ({"patience": 3, "validation": 0.0}, "held out"),
        ({"full_vb": True, "freeze": "decoder"}, "Leave one out"),
        ({"full_vb": True, "objective": "avo", "posterior": "hvi"}, "--objective elbo"),
        ({"beta0": 0.0}, "--beta0"),
        ({"validation": 1.0}, "--validation"),
        ({"batch_size": 1}, "--batch-size"),
        ({"lr": 0.0}, "--lr"),
        ({"freeze": "encoder"}, "--freeze"),
    ],
)
def test_what_contradicts_itself_is_refused(options, word):
    with pytest.raises(UsageError) as caught:
        VaeFitConfig(**options)
    assert word in str(caught.value)
