"""Noise as data: it survives JSON, in a plan or alone, and a stranger's nonsense is refused."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.errors import BnnkitError, StructureError
from bnnkit.spec import ModelSpec, NoisePlan, Plan
from bnnkit.spec.noise import OUTPUTS, SAMPLERS

NOISE = NoisePlan("lowrank", ("bn1", "bn1#2", "a.bn"), (4, 4, 3), 32, 300, 30, "logits", 1.25, 7)
PLAN = Plan(ModelSpec(arch="bnnkit:digits-cnn", input_shape=(1, 8, 8)), method="sbn", noise=NOISE)

sites = st.lists(st.tuples(st.text(min_size=1), st.integers(1, 4096)), min_size=1, max_size=5)


@given(
    st.sampled_from(SAMPLERS),
    sites,
    st.integers(2, 1024),
    st.integers(50, 1000),
    st.integers(1, 10_000),
    st.sampled_from(OUTPUTS),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**62),
)
def test_noise_round_trips_through_json(sampler, sites, size, batches, k, outputs, temperature, s):
    names, channels = zip(*sites, strict=True)
    noise = NoisePlan(sampler, names, channels, size, batches, k, outputs, temperature, s)
    assert NoisePlan.from_dict(json.loads(json.dumps(asdict(noise)))) == noise
    assert Plan.from_json(replace(PLAN, noise=noise).to_json()).noise == noise


def test_a_plan_keeps_its_noise_and_one_without_has_none():
    assert Plan.from_json(PLAN.to_json()) == PLAN
    quiet = replace(PLAN, noise=None)
    assert "noise" not in json.loads(quiet.to_json())
    assert Plan.from_json(quiet.to_json()).noise is None


STRANGE = [
    {"sampler": "gaussian"},
    {"sampler": None},
    {"outputs": "anything"},
    {"sites": []},
    {"sites": ["bn1"]},
    {"channels": [4, 4]},
    {"channels": [4, 0, 3]},
    {"channels": [4, -1, 3]},
    {"channels": ["x", 4, 3]},
    {"channels": 11},
    {"samples": 0},
    {"samples": -3},
    {"samples": 10_001},
    {"samples": 10**12},
    {"samples": float("inf")},
    {"samples": "many"},
    {"temperature": 0},
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"temperature": None},
    {"batch_size": 1},
    {"batches": 0},
    {"seed": -1},
    {"seed": 2**64},
    {"seed": "x"},
]


@pytest.mark.parametrize("change", STRANGE, ids=str)
def test_nonsense_in_a_plan_is_refused_in_one_sentence(change):
    body = json.loads(PLAN.to_json())
    body["noise"] |= change
    with pytest.raises(StructureError) as caught:
        Plan.from_json(json.dumps(body))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", list(asdict(NOISE)))
def test_a_missing_field_is_named(field):
    body = json.loads(PLAN.to_json())
    del body["noise"][field]
    with pytest.raises(StructureError, match=field):
        Plan.from_json(json.dumps(body))


@pytest.mark.parametrize("noise", [None, 3, "lowrank", [], {}])
def test_noise_of_another_kind_is_refused(noise):
    body = json.loads(PLAN.to_json()) | {"noise": noise}
    with pytest.raises(StructureError):
        Plan.from_json(json.dumps(body))


def test_what_is_refused_is_quoted():
    with pytest.raises(BnnkitError, match=r"sampler 'dice', 30 samples, temperature 1\.25"):
        replace(NOISE, sampler="dice")
