"""Encoder, decoder and refinement of an autoencoder for serving, each proved against torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import ArtefactError, BnnkitError, FileRefusedError
from bnnkit.io.export import write_onnx
from bnnkit.io.onnx_loop import Iteration, write_loop_onnx
from bnnkit.io.rundir import DECODER_ONNX, ENCODER_ONNX, REFINE_ONNX
from bnnkit.io.sessions import OnnxProgram
from bnnkit.run.vae.binary_iteration import binary_refinement_loop, uniform_noise
from bnnkit.run.vae.iteration import refinement
from bnnkit.run.vae.setup import VaeBench
from bnnkit.run.verify import Check, verify_answers
from bnnkit.spec.vae_refine import RefineConfig, matrix_shape

__all__ = ["LOOP_TOLERANCE", "TOLERANCE", "Served", "write_vae_onnx"]

_PROOF = 64
_BATCHES = (13, 17, 19, 23, 29, 31, 37)
"""Sizes of the example batch: one that no other axis has tells which axis is the batch."""
_MOST_CORRELATED = 16
"""Most latents of a correlated family whose refinement is exported."""

TOLERANCE, LOOP_TOLERANCE = 1e-4, 1e-3
"""Relative; the iterates of the loop multiply the rounding of single steps."""


@dataclass(frozen=True)
class Served:
    """An ONNX file that was written and agrees with torch.

    Args:
        name: Its file name.
        bytes: Its size.
        inputs: What it takes, a line each.
        outputs: What it gives, by name.
        check: The comparison.
    """

    name: str
    bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    check: Check

    def section(self) -> dict[str, Any]:
        """Return the report's row."""
        return {
            "form": "onnx",
            "file": self.name,
            "bytes": self.bytes,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
        }


class _Encode(nn.Module):
    """Data to mean and log sigma, or to the logits of binary latents."""

    def __init__(self, bench: VaeBench) -> None:
        super().__init__()
        self.inner, self._encode = bench.auto.module, bench.model.encode

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        found = self._encode(x)
        return found if len(found) > 1 else found[0]


class _Decode(nn.Module):
    """Latents to the parameters of the likelihood."""

    def __init__(self, bench: VaeBench) -> None:
        super().__init__()
        self.inner, self._decode = bench.auto.module, bench.model.decode

    def forward(self, z: Tensor) -> tuple[Tensor, ...] | Tensor:
        found = self._decode(z)
        rows = tuple(p.expand(z.shape[0], *p.shape[1:]) for p in found)
        return rows if len(rows) > 1 else rows[0]


def write_vae_onnx(
    folder: Path, bench: VaeBench, config: RefineConfig, x: Tensor, notes: list[str]
) -> list[Served]:
    """Write encoder, decoder and refinement, and compare each with torch on real data.

    Whether the comparisons pass is for the caller to judge (`verify.require`). What cannot be
    exported, or runs at no other batch size, is left out, and a note says why.

    Args:
        folder: Where the files go.
        bench: The autoencoder, on the CPU.
        config: The refinement.
        x: Real data `[n, D]`.
        notes: Appended to.
    """
    x = x[:_PROOF]
    flags = [(p, p.requires_grad) for p in bench.auto.module.parameters()]
    try:
        bench.auto.module.requires_grad_(False)
        with torch.no_grad():
            amortised = bench.model.amortised(x)
        given = tuple(amortised.state())
        z = amortised.centre()
        found = [
            _simple(folder / ENCODER_ONNX, _Encode(bench), x, given, notes),
            _simple(folder / DECODER_ONNX, _Decode(bench), z, _names(bench), notes),
            _loop(folder / REFINE_ONNX, bench, config, x, notes),
        ]
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return [file for file in found if file is not None]


def _names(bench: VaeBench) -> tuple[str, ...]:
    """Return names of the decoder's outputs."""
    return ("mean", "log_sigma") if bench.model.likelihood == "gaussian" else ("logits",)


def _simple(
    path: Path, module: nn.Module, inputs: Tensor, outputs: tuple[str, ...], notes: list[str]
) -> Served | None:
    """Write a module of one input, and compare it."""
    with torch.no_grad():
        expected = module(inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    try:
        written = write_onnx(module.eval(), inputs[:2], path, outputs=outputs)
        check = _compared(path, {"input": (inputs, 0)}, outputs, expected, TOLERANCE)
    except (ArtefactError, FileRefusedError) as error:
        _left_out(path, error, notes)
        return None
    notes += [f"{path.name}: {note}" for note in written.notes]
    line = f"input: float32 [batch, {', '.join(map(str, inputs.shape[1:]))}]"
    return Served(path.name, written.bytes, (line,), outputs, check)


def _loop(
    path: Path, bench: VaeBench, config: RefineConfig, x: Tensor, notes: list[str]
) -> Served | None:
    """Write the refinement, and compare it with the same iteration in torch."""
    able = "natural" if bench.belief is None else "ais"
    if config.method != able or not config.steps:
        notes.append(
            f"{path.name} was not written: only steps by {able} are exported, and there are "
            f"{config.steps} by {config.method}."
        )
        return None
    if config.family != "diag" and bench.model.latent > _MOST_CORRELATED:
        notes.append(
            f"{path.name} was not written: factors of covariances are written out row by row, and "
            f"{bench.model.latent} latents are more than {_MOST_CORRELATED}."
        )
        return None
    iteration, rates, noise = _drawn_loop(bench, config, x)
    shape, kind = tuple(noise.shape[:2]), "standard normal"
    if bench.belief is not None:
        kind = "uniform in [0, 1)"
    try:
        sides = matrix_shape(config.family) or ()
        few = _example_rows(len(x), (x.shape[1], bench.model.latent, *shape, *sides))
        written = write_loop_onnx(iteration, x[few], noise[:, :, few], rates, path)
        expected = _iterate(iteration, x, noise, rates)
        given = {"x": (x, 0), "noise": (noise, 2)}
        check = _compared(path, given, iteration.outputs, expected, LOOP_TOLERANCE)
    except (ArtefactError, FileRefusedError) as error:
        _left_out(path, error, notes)
        return None
    lines = (
        f"x: float32 [batch, {x.shape[1]}]",
        f"noise: float32 [{shape[0]}, {shape[1]}, batch, {bench.model.latent}], {kind}",
    )
    return Served(path.name, written.bytes, lines, iteration.outputs, check)


def _drawn_loop(
    bench: VaeBench, config: RefineConfig, x: Tensor
) -> tuple[Iteration, Tensor, Tensor]:
    """Return the refinement, its rates, and noise `[K + 1, s, n, d]` for the data of the proof."""
    source = torch.Generator().manual_seed(config.seed)
    samples = max(config.draws, 2)
    if bench.belief is not None:
        iteration, rates = binary_refinement_loop(bench, config)
        return iteration, rates, uniform_noise(iteration, x, rates, samples, source)
    iteration, rates = refinement(bench, config)
    shape = (config.steps + 1, samples, len(x), bench.model.latent)
    return iteration, rates, torch.randn(*shape, generator=source)


def _left_out(path: Path, error: BnnkitError, notes: list[str]) -> None:
    """Say why a file is not there: it cannot be exported, or runs at no other batch size."""
    path.unlink(missing_ok=True)
    notes.append(f"{path.name} was not written: {error.found}: {error.why}.")


def _example_rows(n: int, taken: Sequence[int]) -> Tensor:
    """Return which of n data make the example batch, whose size is none of those taken."""
    size = next(size for size in _BATCHES if size not in taken)
    return torch.arange(size) % n


def _iterate(iteration: Iteration, x: Tensor, noise: Tensor, rates: Tensor) -> tuple[Tensor, ...]:
    """Return what the iteration gives in torch."""
    with torch.no_grad():
        first = iteration.start(x)
        split = len(iteration.constants)
        constants, before = first[:split], first[split:]
        state = before
        for k, rate in enumerate(rates):
            state = iteration.step(x, noise[k], rate, *constants, *state)
        ends: tuple[Tensor, ...] = iteration.finish(x, noise[-1], *constants, *before, *state)
    return ends


def _compared(
    path: Path,
    inputs: Mapping[str, tuple[Tensor, int]],
    outputs: Sequence[str],
    expected: Sequence[Tensor],
    tolerance: float,
) -> Check:
    """Compare a file with torch.

    Args:
        path: The file.
        inputs: Values by name, each with its batch axis.
        outputs: Names of the outputs.
        expected: What torch gives, each `[n, ...]`.
        tolerance: Largest difference, relative to the largest number of an output.
    """
    program = OnnxProgram(path)

    def answers(count: int) -> list[Tensor]:
        given = {name: value.narrow(axis, 0, count) for name, (value, axis) in inputs.items()}
        return program(given, outputs)

    return verify_answers(f"{path.stem}: torch = onnx", answers, expected, tolerance=tolerance)
