"""A model specification survives JSON."""

import json

import pytest

from bnnkit.spec import ModelSpec


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("net.pth", state_key="ema"),
        ModelSpec(None, "bnnkit:lenet5", {"classes": 3}, input_shape=(1, 28, 28)),
    ],
)
def test_what_is_written_is_read(spec):
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="colour"):
        ModelSpec.from_dict({"file": None, "colour": "red"})
