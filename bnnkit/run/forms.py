"""Any form of a model opened alike: run directory, checkpoint, `.pt2`, ONNX, TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, DataError, UsageError
from bnnkit.io.architectures import parse_arch_args
from bnnkit.io.models import load_model
from bnnkit.io.pt2 import read_pt2
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.io.sessions import OnnxModel
from bnnkit.io.sniff import FileInfo, FileKind, sniff, vet
from bnnkit.run.provenance import public_argv
from bnnkit.run.setup import as_model_spec
from bnnkit.run.uncertainty.stochastic import as_stochastic
from bnnkit.spec import ModelSpec, Plan

__all__ = [
    "ModelSource",
    "Opened",
    "checked",
    "describe_model",
    "distinct_names",
    "open_form",
    "parse_arch_args",
]

ModelSource = nn.Module | ModelSpec | str | Path
"""How a library call names a model."""

_PROGRAMS = (FileKind.PT2, FileKind.ONNX, FileKind.TORCHSCRIPT)


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that answers.

    Args:
        predictor: The model as a function, on the device that was asked for.
        spec: How it was named, with what was inferred.
        module: The module behind it; None for ONNX and TorchScript, which only run.
        input_shape: Shape of one input, without batch; None where nobody knows it.
        bytes: Size of its file; None for a module without one.
        plan: The rewrite that its file carried.
        notes: What was stripped, assumed or converted, one sentence each.
    """

    predictor: Predictor
    spec: ModelSpec
    module: nn.Module | None = None
    input_shape: tuple[int, ...] | None = None
    bytes: int | None = None
    plan: Plan | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.predictor.name


def open_form(
    source: ModelSource,
    *,
    name: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    through_arch: bool = False,
    seed: int = 0,
) -> Opened:
    """Open any form of a model for inference.

    A `.pt2`, ONNX or TorchScript file runs as it is; the other forms are loaded into their
    architecture. A module is copied, so that its device and its training flags stay.

    Args:
        source: The module, the file or run directory, or the file with its architecture.
        name: What tables call it; the file's name where None.
        device: `cpu` or `cuda`.
        threads: Threads of an onnxruntime session.
        through_arch: Whether a `.pt2` or TorchScript file gives its tensors to the architecture
            where one is named.
        seed: Seed of fresh weights.

    Raises:
        ArchitectureError: The architecture is missing, cannot be built or does not fit.
        FileRefusedError: The file cannot be read.
        UsageError: There is no such device, or neither file nor architecture is named.
    """
    if isinstance(source, nn.Module):
        module = deepcopy(source)
        predictor = open_predictor(module, name=name, device=device)
        return Opened(predictor, ModelSpec(arch=type(source).__name__), module)
    spec = as_model_spec(source)
    info = sniff(spec.file) if spec.file is not None else None
    tensors_only = through_arch and spec.arch is not None
    if info is not None and info.kind in _PROGRAMS and not tensors_only:
        return _open_program(spec, info, name, device, threads)
    loaded = load_model(spec, seed=seed)
    module = as_stochastic(loaded)
    predictor = open_predictor(module, name=name or _file_name(spec), device=device)
    return Opened(
        predictor=predictor,
        spec=loaded.spec,
        module=module,
        input_shape=loaded.spec.input_shape,
        bytes=info.bytes if info is not None else None,
        plan=loaded.full_plan,
        notes=loaded.notes,
    )


def _open_program(
    spec: ModelSpec, info: FileInfo, name: str | None, device: str, threads: int | None
) -> Opened:
    """Open a file that holds its own graph."""
    if spec.state_key is not None:
        raise UsageError(
            "Using --state-key",
            repr(spec.state_key),
            f"{str(info.path)!r} is a {info.kind} file, which has no entries",
            "Leave --state-key away.",
        )
    vet(info, trust_pickle=spec.trust_pickle)
    module, shape = None, None
    if info.kind is FileKind.PT2:
        module, shape = _read_graph(info.path)
    elif info.kind is FileKind.ONNX:
        shape = _fixed(OnnxModel(info.path, threads=1).shape)
    predictor = open_predictor(
        info.path, name=name or _file_name(spec), device=device, threads=threads
    )
    return Opened(predictor, spec, module, spec.input_shape or shape, info.bytes)


def _read_graph(path: Path) -> tuple[nn.Module, tuple[int, ...] | None]:
    """Return a `.pt2` file as a module on the CPU, and the shape of one input."""
    program = read_pt2(path)
    inputs = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    for refused in ("train", "eval"):  # they raise; a captured graph is the same in both modes
        module.__dict__.pop(refused, None)
    return module, _fixed(values[0].shape) if isinstance(values[0], Tensor) else None


def _fixed(shape: Iterable[object]) -> tuple[int, ...] | None:
    """Return the sizes after the batch, or None where one of them is free."""
    sizes = list(shape)[1:]
    known = tuple(n for n in sizes if isinstance(n, int))
    return known if known and len(known) == len(sizes) else None


def _file_name(spec: ModelSpec) -> str:
    """Return the last part of the path, or the architecture."""
    return Path(spec.file).resolve().name if spec.file is not None else str(spec.arch)


def distinct_names(sources: Sequence[ModelSource]) -> list[str]:
    """Name models for a table: by file, with as many folders as tell them apart.

    >>> distinct_names(["a.pt", "run/model.onnx", "old/model.onnx", "a.pt"])
    ['a.pt', 'run/model.onnx', 'old/model.onnx', 'a.pt #2']
    """
    paths: list[tuple[str, ...]] = []
    for source in sources:
        if isinstance(source, nn.Module):
            paths.append((type(source).__name__,))
        else:
            spec = as_model_spec(source)
            file = Path(spec.file).resolve().parts if spec.file is not None else ()
            paths.append(file or (str(spec.arch),))
    names: list[str] = []
    seen: dict[tuple[str, ...], int] = {}
    for path in paths:
        others = {other for other in paths if other != path}
        depth = 1
        while depth < len(path) and any(o[-depth:] == path[-depth:] for o in others):
            depth += 1
        seen[path] = seen.get(path, 0) + 1
        again = f" #{seen[path]}" if seen[path] > 1 else ""
        names.append("/".join(path[-depth:]).replace("//", "/") + again)
    return names


def checked(opened: Opened) -> Callable[[Tensor], Tensor]:
    """Return the model as a function whose faults are refusals: its code is not ours.

    The function raises `DataError` where the model stops, with the shape that it was given.
    """

    def call(x: Tensor) -> Tensor:
        try:
            return opened.predictor(x)
        except BnnkitError:
            raise
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"Running {opened.name!r}",
                f"a batch of {len(x)} inputs of {list(x.shape[1:])}",
                f"the memory of {opened.predictor.device!r} is too small for it",
                "Use a smaller batch.",
            ) from error
        except Exception as error:
            first = (str(error).strip().splitlines() or ["no message"])[0][:200]
            raise DataError(
                f"Running {opened.name!r}",
                f"inputs of {list(x.shape[1:])} gave {type(error).__name__}: {first}",
                "the model and its inputs do not fit",
                "Give the model's own size with --input-shape, or other data.",
            ) from error

    return call


def describe_model(opened: Opened) -> dict[str, Any]:
    """Return the `model` section of a report, without the path of the user's home."""

    def public(text: str | None) -> str | None:
        return None if text is None else public_argv(["", text])[1]

    return {
        "file": public(opened.spec.file),
        "arch": public(opened.spec.arch),
        "form": opened.predictor.form,
        "notes": list(opened.notes),
    }
