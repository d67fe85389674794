"""What is in a model file, without running anything of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from bnnkit.errors import BnnkitError, FileRefusedError
from bnnkit.io.archive import Archive
from bnnkit.io.checkpoint import PLAN_KEY
from bnnkit.io.choose import candidates, strip_prefixes
from bnnkit.io.faults import reading
from bnnkit.io.inert import load_inert
from bnnkit.io.policy import dangerous_names, refuse_dangerous
from bnnkit.io.programs import read_pt2_weights, read_torchscript_weights
from bnnkit.io.sniff import FileInfo, FileKind, sniff
from bnnkit.io.storages import TensorReader
from bnnkit.io.torchfile import legacy_bytes, scan_legacy, zip_bytes, zip_tree
from bnnkit.spec import NoisePlan, Plan

__all__ = ["file_contents"]

_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

Rows = list[dict[str, Any]]


def file_contents(path: str | Path) -> tuple[dict[str, Any], Plan | None]:
    """Say what a model file is and what lies in it.

    Args:
        path: A model file or a run directory.

    Returns:
        The report section `file`: `path`, `kind`, `bytes`, `members` (how many), `globals` (names
        that its pickles refer to), `classes` (those that are no part of plain weights),
        `dangerous` (those that could run a command), `metadata`, `plan`, `weights` and `notes`;
        and the plan that it carries. Every set of weights has its `place` (the `--state-key`),
        the `prefix` in front of its names, `count`, `numbers`, `dtypes` and `tensors`.

    Raises:
        FileRefusedError: It is missing, broken, or no model file.
    """
    info = sniff(path)
    notes: list[str] = []
    weights: Rows = []
    plan = None
    try:
        weights = [_summary(place, rows) for place, rows in _weights(info).items()]
    except BnnkitError as error:
        notes.append(f"Its tensors were not read: {error.found or error}.")
    try:
        plan = _plan(info)
    except BnnkitError as error:
        notes.append(f"Its plan was not read: {error.found or error}.")
    section = {
        "path": str(info.path),
        "kind": str(info.kind),
        "bytes": info.bytes,
        "members": len(info.members),
        "globals": list(info.globals),
        "classes": list(info.classes),
        "dangerous": dangerous_names(info.globals, info.called),
        "metadata": {k: v for k, v in info.metadata.items() if k != PLAN_KEY},
        "plan": None if plan is None else _plan_summary(plan),
        "weights": weights,
        "notes": notes,
    }
    return section, plan


def _weights(info: FileInfo) -> dict[str, Rows]:
    """Return every set of weights, `{place: rows of name, shape, dtype}`."""
    with reading(info.path):
        if info.kind is FileKind.ONNX:
            return {}
        if info.kind in (FileKind.SAFETENSORS, FileKind.RUN):
            return {"": _safetensors(info.weights_path)}
        refuse_dangerous(info.globals, info.called)
        if info.kind in (FileKind.PT2, FileKind.TORCHSCRIPT):
            read = read_pt2_weights if info.kind is FileKind.PT2 else read_torchscript_weights
            with info.path.open("rb") as file:
                return {"": _rows(read(Archive(file)).items())}
        return _pickled(info)


def _safetensors(path: Path) -> Rows:
    """Read names, shapes and types from the header alone."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return [
            {
                "name": name,
                "shape": list(part.get_shape()),
                "dtype": _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype().lower()),
            }
            for name, part in slices.items()
        ]


def _pickled(info: FileInfo) -> dict[str, Rows]:
    with info.path.open("rb") as file:
        if info.kind is FileKind.TORCH_ZIP:
            archive = Archive(file)
            tree, reader = zip_tree(archive), TensorReader(zip_bytes(archive))
        else:
            layout = scan_legacy(file)
            tree = load_inert(layout.main)
            reader = TensorReader(legacy_bytes(info.path, layout, tree))
        return {
            place: _rows((name, reader.read(record, name)) for name, record in records.items())
            for place, records in candidates(tree.root).items()
        }


def _rows(tensors: Iterable[tuple[str, Tensor]]) -> Rows:
    return [
        {"name": name, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in tensors
    ]


def _summary(place: str, rows: Rows) -> dict[str, Any]:
    """Count a set of weights, and find the prefix that a loader would strip."""
    _, prefix, _ = strip_prefixes({row["name"]: row for row in rows})  # type: ignore[misc]
    return {
        "place": place,
        "prefix": prefix,
        "count": len(rows),
        "numbers": sum(math.prod(row["shape"]) for row in rows),
        "dtypes": dict(Counter(row["dtype"] for row in rows)),
        "tensors": rows,
    }


def _plan(info: FileInfo) -> Plan | None:
    text = info.metadata.get(PLAN_KEY)
    if text is None and info.kind is FileKind.RUN:
        try:
            text = (info.path / "plan.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileRefusedError(
                f"Reading the plan of {str(info.path)!r}", f"{type(error).__name__}"
            ) from error
    return None if text is None else Plan.from_json(text)


def _noise_summary(noise: NoisePlan) -> Mapping[str, Any]:
    """Return what the batch-norm noise is, without the names of every layer."""
    body = {k: v for k, v in asdict(noise).items() if k not in ("sites", "channels")}
    return {**body, "sites": len(noise.sites), "channels": sum(noise.channels)}


def _plan_summary(plan: Plan) -> Mapping[str, Any]:
    return {
        "arch": plan.model.arch,
        "arch_args": dict(plan.model.arch_args),
        "form": plan.form,
        "method": plan.method,
        "classes": len(plan.classes),
        "units": sum(c.size for c in plan.classes),
        "kept": sum(len(c.kept) for c in plan.classes),
        **({} if plan.noise is None else {"noise": _noise_summary(plan.noise)}),
    }
