"""Generator and discriminator for serving: one ONNX file each, compared with torch as written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import ArtefactError
from bnnkit.graph.outputs import main_output
from bnnkit.io.export import write_onnx
from bnnkit.io.rundir import GENERATOR_ONNX, SCORE_ONNX
from bnnkit.io.sessions import OnnxModel
from bnnkit.run.filtering.filtered import Filtered
from bnnkit.run.filtering.job import Job
from bnnkit.run.verify import Check, verify_forms

__all__ = ["Served", "write_onnx_files"]

_PROOF = 64


@dataclass(frozen=True)
class Served:
    """An ONNX file that was written.

    Args:
        path: Where it is.
        bytes: Its size.
        inputs: What it takes, a line each: name, type and shape.
        notes: What its owner should know.
        check: The comparison with torch.
    """

    path: Path
    bytes: int
    inputs: tuple[str, ...]
    notes: tuple[str, ...]
    check: Check

    def section(self) -> dict[str, object]:
        """Return the report's row."""
        return {
            "form": "onnx",
            "file": self.path.name,
            "bytes": self.bytes,
            "inputs": list(self.inputs),
            "notes": list(self.notes),
        }


class _InUnitRange(nn.Module):
    """A generator as one module: latents `[n, ...]`, and labels `[n]`, to images in [0, 1]."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        assert job.generator.module is not None  # callers have one
        self.inner = job.generator.module
        self._meaning = job.generator.meaning

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images `[n, c, h, w]` in [0, 1]."""
        told = self._meaning.encode(labels)
        out = self.inner(z) if told is None else self.inner(z, told)
        return self._meaning.images(main_output(out), z.shape[0])


def write_onnx_files(
    folder: Path, job: Job, score: nn.Module | None, filtered: Filtered
) -> list[Served]:
    """Export generator and score, and compare both with torch on what was delivered.

    Those of a class-conditional generator take the labels, int64 `[batch]`, as a second input.
    What cannot be exported is left out, and the report's notes say why.

    Args:
        folder: Where the files go.
        job: The run.
        score: From images and labels to log p/q; None for a discriminator of pairs.
        filtered: What the run delivers.

    Raises:
        ArtefactError: A file does not run.
    """
    labels = None if filtered.labels is None else filtered.labels[:_PROOF]
    made, found = job.generator, []
    if made.module is None or made.form.form != "torch":
        job.notes.append(f"The generator was not exported to ONNX: it came as {made.form.form}.")
    else:
        whole, z = _InUnitRange(job).cpu().eval(), filtered.latents[:_PROOF]
        found.append(_proved(whole, z, labels, folder / GENERATOR_ONNX, "generator", job))
    if score is None:
        job.notes.append("The discriminator was not exported to ONNX: it takes pairs of images.")
    else:
        x = filtered.images[:_PROOF].float() / 255
        found.append(
            _proved(score.cpu().eval(), x, labels, folder / SCORE_ONNX, "discriminator", job)
        )
    return [file for file in found if file is not None]


def _proved(
    module: nn.Module, inputs: Tensor, labels: Tensor | None, path: Path, name: str, job: Job
) -> Served | None:
    """Write one file and compare it; one that cannot be exported is left out, and said so."""
    few = None if labels is None else labels[:2]
    try:
        written = write_onnx(module, inputs[:2], path, labels=few)
    except ArtefactError as error:
        job.notes.append(f"The {name} was not exported to ONNX: {error.found}: {error.why}.")
        return None
    session = OnnxModel(path, labelled=labels is not None)
    shape, rows = tuple(inputs.shape[1:]), _as_rows(inputs, labels)
    told = labels is not None
    reference = _OfRows(module, name, "torch", shape, told)
    candidate = _OfRows(session, path.stem, "onnx", shape, told, session.shape[0])
    (check,) = verify_forms(reference, {f"{name} = onnx": candidate}, rows)
    batch = "batch" if session.shape[0] is None else str(session.shape[0])
    sizes = ", ".join(map(str, (batch, *shape)))
    lines = (f"input float32 [{sizes}]", *((f"labels int64 [{batch}]",) if told else ()))
    return Served(written.path, written.bytes, lines, written.notes, check)


def _as_rows(inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Put inputs and labels into one tensor, whose rows a proof can cut into batches."""
    flat = inputs.double().flatten(1)
    return flat if labels is None else torch.cat([flat, labels.double()[:, None]], dim=1)


class _OfRows:
    """A form as a function of such rows.

    Args:
        run: From inputs (and labels) to outputs.
        name: What it is called.
        form: `torch` or `onnx`.
        shape: Shape of one input.
        told: Whether the last number of a row is its label.
        batch: The one batch size that it takes; None for any.
    """

    device = "cpu"

    def __init__(
        self,
        run: Callable[..., Tensor],
        name: str,
        form: str,
        shape: tuple[int, ...],
        told: bool,
        batch: int | None = None,
    ) -> None:
        self.name, self.form = name, form
        self._run, self._shape, self._told, self._batch = run, shape, told, batch

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs `[n, ...]` of rows `[n, d]`."""
        if self._batch is None:
            return self._whole(x)
        short = -len(x) % self._batch  # filled up with copies of the last row
        full = torch.cat([x, x[-1:].expand(short, -1)])
        return torch.cat([self._whole(part) for part in torch.split(full, self._batch)])[: len(x)]

    def _whole(self, x: Tensor) -> Tensor:
        inputs = (x[:, :-1] if self._told else x).float().reshape(len(x), *self._shape)
        with torch.inference_mode():
            return self._run(inputs, x[:, -1].long()) if self._told else self._run(inputs)
