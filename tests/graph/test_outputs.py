from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from bnnkit.errors import StructureError
from bnnkit.graph.outputs import main_output

MAIN, OTHER = torch.ones(2, 3), torch.zeros(2, 3)
Named = namedtuple("Named", "aux logits")
Plain = namedtuple("Plain", "first second")


@pytest.mark.parametrize(
    "output",
    [
        MAIN,
        (MAIN, OTHER),
        [MAIN, OTHER],
        (None, MAIN),
        Named(OTHER, MAIN),
        Plain(MAIN, OTHER),
        {"aux": OTHER, "logits": MAIN},
        {"aux": OTHER, "output": MAIN},
        OrderedDict(out=MAIN, aux=OTHER),
        {"anything": MAIN},
        SimpleNamespace(loss=OTHER, logits=MAIN),
    ],
)
def test_the_main_tensor_is_found(output):
    assert main_output(output) is MAIN


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (None, "NoneType"),
        ({"first": MAIN, "second": OTHER}, "'second'"),
        ((), "tuple"),
        (("text",), "str"),
        ({"logits": "text"}, "logits"),
    ],
)
def test_anything_else_is_refused_by_name(output, named):
    with pytest.raises(StructureError, match=named):
        main_output(output)
