"""A generator as data: options are read or refused in words, and JSON gives it back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.errors import UsageError
from bnnkit.spec import ModelSpec
from bnnkit.spec.generator import (
    LATENT_KINDS,
    GeneratorSpec,
    LatentSpec,
    parse_latent,
    parse_range,
    parse_shape,
)

sizes = st.lists(st.integers(1, 100), min_size=1, max_size=3).map(tuple)


@given(st.sampled_from(LATENT_KINDS), sizes)
def test_a_latent_is_read_as_it_is_written(kind, shape):
    latent = LatentSpec(kind, shape)
    assert parse_latent(str(latent)) == latent
    assert parse_latent(str(latent).replace("x", ",")) == latent


@pytest.mark.parametrize("text", ["a/b.py:sampler", "pkg.mod:draw", "C:/x.py:sampler"])
def test_a_sampler_is_a_factory(text):
    assert parse_latent(text) == LatentSpec("factory", source=text)
    assert str(parse_latent(text)) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("normal", "normal:64"),
        ("normal:", "normal:64"),
        ("normal:0", "normal:64"),
        ("normal:-3", "normal:64"),
        ("normal:64x", "normal:64"),
        ("normal:9999999", "normal:64"),
        ("norml:64", "Did you mean 'normal'?"),
        ("64", "normal:64"),
        ("", "normal:64"),
        ("sampler.py", "normal:64"),
        ("uniform:a", "normal:64"),
    ],
)
def test_what_is_no_latent_is_refused_with_a_way_out(text, hint):
    with pytest.raises(UsageError, match="Reading --latent") as caught:
        parse_latent(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "shape", "source"),
    [
        ("normal", (), None),
        ("normal", (0,), None),
        ("cauchy", (3,), None),
        ("normal", (3,), "a.py:f"),
        ("factory", (3,), None),
    ],
)
def test_parts_of_a_latent_go_together(kind, shape, source):
    with pytest.raises(UsageError):
        LatentSpec(kind, shape, source)


def test_ranges():
    assert parse_range("0,255") == (0.0, 255.0)
    assert parse_range("-1, 1") == (-1.0, 1.0)
    assert parse_range("logits") == "logits"
    for text in ("1,-1", "0", "a,b", "0,1,2", "", "nan,1", "-inf,1", "0,0"):
        with pytest.raises(UsageError, match="--out-range"):
            parse_range(text)


def test_shapes():
    assert parse_shape("3,32,32") == (3, 32, 32)
    for text in ("28,28", "784", "1,0,3", "a,b,c", ""):
        with pytest.raises(UsageError, match="channels, height and width"):
            parse_shape(text)


@given(
    st.sampled_from([*(LatentSpec(k, (2, 3)) for k in LATENT_KINDS), parse_latent("a.py:f")]),
    st.sampled_from([None, "logits", (-1.0, 1.0), (0.0, 255.0)]),
    st.none() | st.tuples(*[st.integers(1, 64)] * 3),
    st.none() | st.integers(2, 1000),
    st.sampled_from(["mean", "sampled"]),
)
def test_a_generator_round_trips_through_json(latent, out_range, shape, classes, pixels):
    model = ModelSpec("g.pt", "bnnkit:x", {"latent": 3}, input_shape=(3,))
    spec = GeneratorSpec(model, latent, out_range, shape, classes, pixels)
    assert GeneratorSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "wrong",
    [{"pixels": "median"}, {"classes": 1}, {"out_range": (1.0, 0.0)}, {"shape": (28, 28)}],
)
def test_values_without_a_meaning_are_refused(wrong):
    with pytest.raises(UsageError):
        GeneratorSpec(ModelSpec("g.pt"), parse_latent("normal:3"), **wrong)
