"""A model whose file carries batch-norm noise, as the net that answers with it; and its files."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError
from bnnkit.io.export import Written, write_onnx, write_pt2, write_safetensors
from bnnkit.io.models import LoadedModel, load_model
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.io.sessions import NOISE_KEY
from bnnkit.layers.statistics_samplers import StatisticsSampler, build_sampler
from bnnkit.methods.sbn import StochasticNet
from bnnkit.run.latency.original import OnDevice
from bnnkit.run.progress import Progress
from bnnkit.run.verify import Check, require, verify_forms
from bnnkit.run.written_forms import RELOADED, Form, agree_within, write_forms
from bnnkit.spec import ModelSpec, NoisePlan, Plan
from bnnkit.spec.noise import MOST_NOISE

__all__ = ["as_stochastic", "noise_plan", "sampled", "sampled_name", "write_stochastic"]

_EXPORT = 1e-5
_SETTLE_ROWS = 3
_FEWEST = 8
_SUM = 1e-3
_ROUNDING_ROWS = 4
_OUTPUTS = ("probabilities", "entropy", "mutual_information", "expected_entropy")


def noise_plan(network: StochasticNet, sampler: str, batch_size: int, batches: int) -> NoisePlan:
    """Write a stochastic net's noise down as data; its numbers are `network.sampler`'s buffers."""
    return NoisePlan(
        sampler=sampler,
        sites=network.sites,
        channels=network.channels,
        batch_size=batch_size,
        batches=batches,
        samples=network.samples,
        outputs=network.outputs,
        temperature=network.temperature,
        seed=network.seed,
    )


def as_stochastic(loaded: LoadedModel) -> nn.Module:
    """Return the module that answers as the file says: with its noise, where it carries some.

    Args:
        loaded: A model as it was read.

    Raises:
        StructureError: The noise belongs to another net, or its numbers are not what it says.
    """
    if loaded.noise is None:
        return loaded.module
    plan, tensors = loaded.noise.plan, loaded.noise.tensors
    if not all(t.is_floating_point() and bool(t.isfinite().all()) for t in tensors.values()):
        raise _strange(plan, "numbers that are not finite")
    try:
        sampler = build_sampler(plan.sampler, tensors)
        if plan.samples * sampler.noise_size > MOST_NOISE:
            raise _strange(plan, f"{plan.samples * sampler.noise_size} numbers of noise an answer")
        width = sampler(torch.zeros(1, sampler.noise_size)).shape
        if width != (1, 2 * sum(plan.channels)):
            raise _strange(plan, f"statistics of shape {list(width)}")
        return _network(loaded, plan, sampler)
    except (KeyError, IndexError, RuntimeError) as error:
        raise _strange(plan, f"{type(error).__name__}: {error}") from error


def _network(loaded: LoadedModel, plan: NoisePlan, sampler: StatisticsSampler) -> StochasticNet:
    """Attach a sampler to a net, and find the quick ways to compute."""
    network = StochasticNet(
        loaded.module,
        sampler,
        plan.sites,
        plan.channels,
        samples=plan.samples,
        outputs=plan.outputs,
        temperature=plan.temperature,
        seed=plan.seed,
    )
    if loaded.spec.input_shape is not None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(_SETTLE_ROWS, *loaded.spec.input_shape, generator=generator)
        network.settle(x)
        with torch.inference_mode():
            rows = network(x)
        if not bool(((rows >= 0).all() & ((rows.sum(1) - 1).abs() < _SUM)).all()):
            raise _strange(plan, "answers that are no probabilities")
    return network


def _strange(plan: NoisePlan, found: str) -> StructureError:
    return StructureError(
        f"Reading the batch-norm noise of a {plan.sampler!r} sampler",
        found.splitlines()[0][:200],
        f"it should hold the statistics of {sum(plan.channels)} channels",
        "Fit it again with 'bnnkit sbn-fit'.",
    )


class _WithNoise(nn.Module):
    """What the ONNX file computes: mean probabilities and doubt, from inputs and noise."""

    def __init__(self, network: StochasticNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        found = self.network.predict(x, noise=noise)
        return tuple(getattr(found, name) for name in _OUTPUTS)


class _Drawing(_WithNoise):
    """The same, drawing its noise inside the graph by the runtime's own operator."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        size = (self.network.samples, self.network.sampler.noise_size)
        return super().forward(x, torch.randn(size))


def write_stochastic(
    folder: Path,
    network: StochasticNet,
    plan: Plan,
    inputs: Tensor,
    formats: Sequence[str],
    onnx_noise: str,
    progress: Progress,
) -> tuple[list[Check], list[Written]]:
    """Write a stochastic net in every form, and compare each with it, on real inputs.

    `.pt2` holds the seeded draws; ONNX reads its noise as an input, or draws it.

    Args:
        folder: Where the files go.
        network: The net on the CPU.
        plan: Its description, the noise included.
        inputs: `[n, ...]` real inputs.
        formats: Forms besides safetensors: `pt2`, `onnx`.
        onnx_noise: `input` or `operator`.
        progress: Who is told.

    Raises:
        ArtefactError: A form cannot be written, or disagrees.
    """
    progress.start("writing and checking the stochastic net", 2 + len(formats))
    reference = open_predictor(network, name="stochastic")
    tolerance = max(_EXPORT, 4 * _rounding(network, inputs[:_ROUNDING_ROWS]))
    checks = []
    if network.copies_agree:
        virtual = {"K passes = virtual batch": _Virtual(network)}
        checks += verify_forms(reference, virtual, inputs, tolerance=tolerance)
    progress.advance()
    plain, noise = network.plain(), network.sampler.state_dict()
    same = agree_within(tolerance)
    drawn = partial(_check_drawing, network)
    forms = [
        Form("safetensors", partial(write_safetensors, plain, plan=plan, noise=noise),
             agree_within(RELOADED), _reloaded),
        Form("pt2", partial(write_pt2, network, inputs[:2]), same),
        Form("onnx", partial(write_onnx_with_noise, network, inputs[:2], onnx_noise=onnx_noise),
             same if onnx_noise == "input" else drawn),
    ]  # fmt: skip
    found, written = write_forms(folder, reference, forms, formats, inputs, progress)
    checks += found
    progress.stop()
    require(checks)
    return checks, written


def _reloaded(path: Path) -> Predictor:
    """Open a safetensors file as the net that answers with its noise."""
    again = as_stochastic(load_model(ModelSpec(file=str(path))))
    return open_predictor(again, name="reloaded")


def write_onnx_with_noise(
    network: StochasticNet, example: Tensor, path: Path, onnx_noise: str
) -> Written:
    """Write a stochastic net as ONNX: mean probabilities, entropy and its two parts.

    Args:
        network: The net on the CPU.
        example: Inputs `[b, ...]`.
        path: The file to appear.
        onnx_noise: `input`: a second input `noise` `[samples, size]`, standard normal;
            `operator`: the graph draws it.
    """
    if onnx_noise == "operator":
        return write_onnx(_Drawing(network), example, path, outputs=_OUTPUTS)
    recipe = {
        "samples": network.samples,
        "size": network.sampler.noise_size,
        "seed": network.seed,
    }
    return write_onnx(
        _WithNoise(network), example, path, noise=network.draws.clone(), outputs=_OUTPUTS,
        metadata={NOISE_KEY: json.dumps(recipe)},
    )  # fmt: skip


def _rounding(network: StochasticNet, inputs: Tensor) -> float:
    """Return how far float32 itself puts the answers of this net off those of float64.

    Zero where the net's code asks for float32: the plain tolerance holds then.
    """
    with torch.inference_mode():
        try:
            exact = copy.deepcopy(network).double()
            expected = exact(inputs.double(), network.draws.double())
        except Exception:  # the owner's code
            return 0.0
        return float((network(inputs) - expected).abs().max())


class _Virtual:
    """The net with all copies in one pass, as a predictor."""

    name, form, device = "virtual batch", "torch", "cpu"

    def __init__(self, network: StochasticNet) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            members = self.network.virtual(x, self.network.draws)
            return self.network.summarise(members).probabilities


def _check_drawing(
    network: StochasticNet, name: str, model: Predictor, drawn: Predictor, inputs: Tensor
) -> list[Check]:
    """Judge a graph that draws its own noise: its mean must lie within the noise of the draws."""
    with torch.inference_mode():
        expected = model(inputs)
        # of two independent means, at eight deviations; a coarse bound for tempered answers
        members = network.members(inputs, network.noise(max(_FEWEST, network.samples)))
        spread = members.std(0).mean() * (2 / network.samples) ** 0.5
        gap = float((drawn(inputs) - expected).abs().mean())
    tolerance = float(8 * spread * max(1.0, 1 / network.temperature)) + _EXPORT
    name = f"{name}, own draws"
    return [Check(name, gap, tolerance, "mean difference", len(inputs), gap <= tolerance)]


class _Sampled:
    """A stochastic net with a number of samples, as a predictor."""

    form, device = "torch", "cpu"

    def __init__(self, network: StochasticNet, samples: int) -> None:
        self.network, self.noise = network, network.noise(samples)
        self.name = sampled_name(samples)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            answer: Tensor = self.network(x, self.noise)
            return answer


def sampled(network: StochasticNet) -> dict[str, OnDevice]:
    """Return what opens the net with K = 1, 10 and its own number of samples, by name.

    On the CPU, where it is.
    """

    def on(samples: int) -> OnDevice:
        def opened(*, threads: int) -> Predictor:
            return _Sampled(network, samples)  # torch takes its threads elsewhere

        return lambda device: opened

    return {sampled_name(count): on(count) for count in sorted({1, 10, network.samples})}


def sampled_name(samples: int) -> str:
    """Return what a net with a number of samples is called."""
    return f"stochastic, K = {samples}"
