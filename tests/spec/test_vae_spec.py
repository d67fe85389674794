"""An autoencoder as data: what means nothing is refused in words, and JSON gives it back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.bayes.likelihoods import LIKELIHOODS
from bnnkit.errors import UsageError
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import SPREADS, VAE_LIKELIHOODS, VaeSpec, parse_input_range

MODEL = ModelSpec("vae.pth", "net.py:build", {"latent": 3}, input_shape=(1, 28, 28))


def test_the_likelihoods_are_those_that_are_computed():
    assert set(VAE_LIKELIHOODS) == set(LIKELIHOODS)


@given(
    st.sampled_from([
        {},
        {"likelihood": "bernoulli", "outputs": "logits", "binarise": "threshold"},
        {"likelihood": "bernoulli", "allow_grey": True, "binarise": "none"},
        {"likelihood": "gaussian", "decoder_sigma": 0.5, "input_range": (-1.0, 1.0)},
        {"likelihood": "gaussian", "decoder_variance_is": "sigma2", "prior": "a/b.py:log_prior"},
    ]),
    st.sampled_from([None, *SPREADS]),
)  # fmt: skip
def test_json_gives_it_back(options, variance_is):
    spec = VaeSpec(MODEL, variance_is=variance_is, **options)
    assert VaeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        ({"likelihood": "bernouli"}, "--likelihood", "Did you mean 'bernoulli'?"),
        ({"outputs": "logit"}, "--outputs", "Did you mean 'logits'?"),
        ({"variance_is": "log_var"}, "--variance-is", "Did you mean 'logvar'?"),
        ({"decoder_variance_is": "x"}, "--decoder-variance-is", "sigma2"),
        ({"binarise": "draw"}, "--binarise", "threshold"),
        ({"decoder_sigma": 0.0}, "--decoder-sigma", "--decoder-sigma 0.1"),
        ({"decoder_sigma": float("nan")}, "--decoder-sigma", "--decoder-sigma 0.1"),
        ({"input_range": (1.0, -1.0)}, "--input-range", "--input-range=-1,1"),
        ({"prior": "gaussian"}, "--prior", "--prior normal"),
        ({"prior": "net.py:"}, "--prior", "--prior normal"),
        ({"likelihood": "gaussian", "outputs": "logits"}, "--outputs", "Leave one"),
        ({"likelihood": "bernoulli", "decoder_sigma": 1.0}, "--decoder-sigma", "Leave one"),
        ({"decoder_variance_is": "sigma", "decoder_sigma": 1.0}, "--decoder-sigma", "Leave one"),
        ({"likelihood": "gaussian", "binarise": "bernoulli"}, "--binarise", "--binarise none"),
    ],
)
def test_what_means_nothing_is_refused(options, what, hint):
    with pytest.raises(UsageError) as caught:
        VaeSpec(MODEL, **options)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_ranges():
    assert parse_input_range("-1,1") == (-1.0, 1.0)
    for text in ("1", "1,0", "a,b", "0,1,2", "0,nan"):
        with pytest.raises(UsageError, match="--input-range"):
            parse_input_range(text)
