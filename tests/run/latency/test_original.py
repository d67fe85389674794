"""A net is timed against what was made of it, in the runtimes that there are files for."""

import pytest
import torch
from torch import nn

from bnnkit.io.export import write_onnx
from bnnkit.run.latency.original import of_module, time_against_original
from bnnkit.run.progress import SilentProgress


@pytest.mark.parametrize("exported", [True, False])
def test_every_runtime_times_the_original_first(exported, tmp_path):
    original = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    slim = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    path = tmp_path / "slim.onnx"
    if exported:
        write_onnx(slim, torch.zeros(2, 5), path)
    models = {"slim": of_module(slim), "slim again": of_module(slim)}
    rows = time_against_original(
        original, models, ("slim", path), (5,), [1, 4], [1], SilentProgress(), against="slim"
    )
    found = [
        (r["runtime"], r["device"], r["batch"], [m["name"] for m in r["models"]]) for r in rows
    ]
    torch_rows = [("torch", "cpu", n, ["original", "slim", "slim again"]) for n in (1, 4)]
    onnx_rows = [("onnxruntime", "cpu", n, ["original", "slim"]) for n in (1, 4)]
    assert found == torch_rows + (onnx_rows if exported else [])
    assert all(model["latency"].value > 0 for row in rows for model in row["models"])


def test_a_module_is_opened_as_a_copy():
    module = nn.Linear(5, 3)
    opened = of_module(module)("cpu")(threads=1)
    expected = module(torch.ones(1, 5)).detach()
    nn.init.zeros_(module.weight)
    torch.testing.assert_close(opened(torch.ones(1, 5)), expected)
