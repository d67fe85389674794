"""An iteration as one ONNX file, against the same iteration in numpy."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from bnnkit.errors import ArtefactError
from bnnkit.io.onnx_loop import Iteration, write_loop_onnx
from bnnkit.io.sessions import OnnxProgram

pytestmark = pytest.mark.slow
STEPS, DRAWS, D, LATENT, BATCH = 4, 2, 3, 5, 7


class Start(nn.Module):
    """The target W x, and a first state of zeros."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(LATENT, D, generator=source), requires_grad=False)

    def forward(self, x):
        target = x @ self.weight.T
        return target, 0 * target


class Step(nn.Module):
    """A noisy step down the gradient of (state - target)² / 2, by autograd."""

    def forward(self, x, noise, rate, target, state):
        with torch.enable_grad():
            leaf = state.detach().requires_grad_()
            loss = 0.5 * (leaf - target).square().sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        return (state - rate * gradient + 0.1 * noise.mean(0),)


class Finish(nn.Module):
    """How far it has moved, and the state beside the last noise."""

    def forward(self, x, noise, target, before, state):
        return (state - before).square().sum(1), state + noise[0]


def in_numpy(weight, x, noise, rates):
    target = x @ weight.T
    state = np.zeros_like(target)
    for k, rate in enumerate(rates):
        state = state - rate * (state - target) + 0.1 * noise[k].mean(0)
    return (state**2).sum(1), state + noise[-1][0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("loop") / "loop.onnx"
    start = Start()
    iteration = Iteration(start, Step(), Finish(), ("target",), ("state",), ("moved", "end"))
    rates = torch.tensor([0.9, 0.5, 0.2, 0.1])
    source = torch.Generator().manual_seed(1)
    noise = torch.randn(STEPS + 1, DRAWS, BATCH, LATENT, generator=source)
    x = torch.randn(BATCH, D, generator=source)
    file = write_loop_onnx(iteration, x, noise, rates, path, metadata={"steps": "4"})
    return file, start.weight.numpy(), rates.numpy()


@pytest.mark.parametrize("batch", [1, 2, 7, 20])
def test_it_computes_the_iteration_at_any_batch(written, batch):
    file, weight, rates = written
    source = np.random.Generator(np.random.PCG64(batch))
    x = source.normal(size=(batch, D)).astype(np.float32)
    noise = source.normal(size=(STEPS + 1, DRAWS, batch, LATENT)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])
    found = session.run(["moved", "end"], {"x": x, "noise": noise})
    for ours, expected in zip(found, in_numpy(weight, x, noise, rates), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-6)
    program = OnnxProgram(file.path)
    given = {"x": torch.from_numpy(x), "noise": torch.from_numpy(noise)}
    (end,) = program(given, ["end"])
    np.testing.assert_array_equal(end.numpy(), found[1])


def test_the_steps_are_one_loop(written):
    file, _, _ = written
    model = onnx.load(str(file.path))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("Loop") == 1
    assert {p.key: p.value for p in model.metadata_props} == {"steps": "4"}
    axes = [d.dim_param or d.dim_value for d in model.graph.input[1].type.tensor_type.shape.dim]
    assert axes == [STEPS + 1, DRAWS, "batch", LATENT]
    assert file.bytes == file.path.stat().st_size


def test_what_cannot_be_traced_is_refused(tmp_path):
    class Odd(nn.Module):
        def forward(self, x, noise, rate, target, state):
            return (state * float(state.sum()),)

    iteration = Iteration(Start(), Odd(), Finish(), ("target",), ("state",), ("moved", "end"))
    noise = torch.zeros(STEPS + 1, DRAWS, BATCH, LATENT)
    with pytest.raises(ArtefactError, match="--no-onnx"):
        write_loop_onnx(
            iteration, torch.ones(BATCH, D), noise, torch.ones(STEPS), tmp_path / "l.onnx"
        )
    assert not list(tmp_path.iterdir())
