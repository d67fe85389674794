"""The settings of `sbn-fit`: sound defaults, and one sentence for what has no meaning."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.errors import UsageError
from bnnkit.spec.config import SbnConfig, parse_calibration_split
from bnnkit.spec.noise import SAMPLERS


def test_the_defaults_are_sound_and_are_json():
    assert json.loads(json.dumps(asdict(SbnConfig())))["sampler"] in SAMPLERS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "lowrang"}, "Reading --sampler: 'lowrang'; it is not known. "
                                 "Did you mean 'lowrank'?"),
        ({"compare": ("replay", "full")}, "Reading --compare: 'full'"),
        ({"calibrate": "platt"}, "Reading --calibrate: 'platt'"),
        ({"onnx_noise": "inputs"}, "Did you mean 'input'?"),
        ({"batch_size": 1}, "Reading --batch-size: 1; it must be at least 2"),
        ({"batches": 49}, "Reading --batches: 49; it must be at least 50"),
        ({"samples": 0}, "Reading --samples: 0; it must be at least 1"),
        ({"rank": 0}, "Reading --rank: 0; it must be at least 1"),
        ({"ood_limit": 0}, "Reading --ood-limit: 0; it must be at least 1"),
        ({"mc_batch_norm": -1}, "Reading --mc-bn: -1; it must be at least 0"),
        ({"seed": -1}, "Reading --seed: -1; it must be at least 0"),
        ({"calibration_split": "half"}, "Reading --calibration-split: 'half'"),
    ],
)  # fmt: skip
def test_a_value_without_a_meaning_is_refused(change, words):
    with pytest.raises(UsageError) as caught:
        SbnConfig(**change)
    assert words in str(caught.value)


def test_the_least_of_everything_is_taken():
    SbnConfig(batch_size=2, batches=50, samples=1, rank=1, ood_limit=1, mc_batch_norm=0, seed=0)


@given(st.sampled_from(["test", "train"]), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_split_round_trips(place, share):
    assert parse_calibration_split(f"{place}:{share!r}") == (place, share)


@pytest.mark.parametrize(
    "text",
    ["", "test", "train:", "test:0", "test:1", "test:-0.1", "test:nan", "test:inf", "test:20%",
     "cross:0.5", "valid:0.2", "0.2", "test:0.2:0.3"],
)  # fmt: skip
def test_other_splits_are_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"Use cross, test:0\.2 or train:0\.1"):
        parse_calibration_split(text)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sampler": "factorised", "rank": 3}, "--rank"),
        ({"calibrate": "none", "calibration_split": "test:.2"}, "--calibrate none"),
    ],
)
def test_what_nothing_would_read_is_refused(change, word):
    with pytest.raises(UsageError, match=word):
        SbnConfig(**change)
    SbnConfig(sampler="factorised", rank=3, compare=("lowrank",))
