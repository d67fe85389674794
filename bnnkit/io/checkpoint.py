"""Tensors out of any model file, by name, on the CPU, without running anything of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnnkit.errors import UsageError
from bnnkit.io.archive import Archive
from bnnkit.io.choose import candidates, one_of, strip_prefixes
from bnnkit.io.faults import FileFault, quote, reading
from bnnkit.io.harvest import is_module
from bnnkit.io.inert import InertTree, TensorRecord, load_inert
from bnnkit.io.policy import dangerous_names
from bnnkit.io.programs import read_pt2_weights, read_torchscript_weights
from bnnkit.io.sniff import FileInfo, FileKind, sniff, vet
from bnnkit.io.storages import TensorReader
from bnnkit.io.torchfile import legacy_bytes, scan_legacy, zip_bytes, zip_tree
from bnnkit.spec import Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["NOISE_PREFIX", "PLAN_KEY", "Checkpoint", "read_checkpoint"]

PLAN_KEY = "bnnkit.plan"

NOISE_PREFIX = "bnnkit.noise."
"""How the tensors of a model's noise are called, beside its weights."""


@dataclass
class Checkpoint:
    """The weights of a file.

    Args:
        info: What the file is.
        tensors: Its weights by name, each contiguous and on the CPU.
        notes: What was picked, stripped or ignored, one sentence each.
        plan: The rewrite that the file carries.
        module: The module itself, where a trusted pickle gave one.
        prefix: What was stripped from the front of every name.
        noise: Tensors of the noise that the plan describes, by their own names.
    """

    info: FileInfo
    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    plan: Plan | None = None
    module: nn.Module | None = None
    prefix: str = ""
    noise: dict[str, Tensor] = field(default_factory=dict)


def read_checkpoint(
    path: str | Path,
    *,
    state_key: str | None = None,
    trust_pickle: bool = False,
    harvest: bool = False,
) -> Checkpoint:
    """Read the weights of a model file.

    Args:
        path: A model file or a run directory.
        state_key: Dotted place of the weights in a training checkpoint.
        trust_pickle: Whether classes of the file may be imported and run.
        harvest: Whether tensors may be taken out of pickled modules whose classes are not
            imported: an architecture for them was given.

    Returns:
        The weights and what was done to find them.

    Raises:
        FileRefusedError: The file is broken, hostile or of a form without weights.
        UsageError: `state_key` is wrong, or it is needed and was not given.
        StructureError: The plan in the file cannot be read.
    """
    info = sniff(path)
    with reading(path):
        if info.kind is FileKind.ONNX:
            raise FileFault(
                "an ONNX model",
                "ONNX files can be evaluated and timed, not operated on",
                "Name the PyTorch checkpoint that it was exported from",
            )
        if info.kind in (FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY):
            return _read_pickled(info, state_key, trust_pickle, harvest)
        if state_key is not None:
            raise UsageError(
                "Using --state-key",
                quote(state_key),
                f"a {info.kind} file has no entries",
                "Leave --state-key away.",
            )
        vet(info)  # whatever is trusted: nothing of these forms needs to run for its weights
        return _finish(info, _read_plain(info), [], plan=_plan(info))


def _read_plain(info: FileInfo) -> dict[str, Tensor]:
    if info.kind in (FileKind.SAFETENSORS, FileKind.RUN):
        from safetensors.torch import load_file

        return load_file(info.weights_path)
    with info.path.open("rb") as file:
        archive = Archive(file)
        return (
            read_pt2_weights(archive)
            if info.kind is FileKind.PT2
            else read_torchscript_weights(archive)
        )


def _plan(info: FileInfo) -> Plan | None:
    text = info.metadata.get(PLAN_KEY)
    if text is None and info.kind is FileKind.RUN:
        text = (info.path / "plan.json").read_text(encoding="utf-8")
    return None if text is None else Plan.from_json(text)


def _read_pickled(
    info: FileInfo, state_key: str | None, trust_pickle: bool, harvest: bool
) -> Checkpoint:
    needs_code = info.classes or dangerous_names(info.globals, info.called)
    if trust_pickle and needs_code:
        return _read_trusted(info, state_key)
    vet(info)
    if info.classes and not harvest:
        more = f" and {len(info.classes) - 1} more" if len(info.classes) > 1 else ""
        raise FileFault(
            f"pickled objects of {quote(info.classes[0])}{more}",
            "bnnkit does not run the code that they need",
            "Pass --arch to name the architecture, and their tensors are read without their "
            "code; or --trust-pickle, if you trust whoever made the file",
        )
    with info.path.open("rb") as file:
        tree, reader = _open_pickled(info, file)
        if isinstance(tree.root, TensorRecord):
            raise FileFault("a single tensor", "a model has many, by name", "Save a state_dict")
        records = candidates(tree.root)
        wanted = {state_key: records[state_key]} if state_key in records else records
        found = {
            place: {name: reader.read(record, name) for name, record in tensors.items()}
            for place, tensors in wanted.items()
        }
    place, tensors = one_of(found, state_key)
    return _finish(info, tensors, _notes(info, tree.root, place, tensors))


def _open_pickled(info: FileInfo, file: Any) -> tuple[InertTree, TensorReader]:  # noqa: ANN401
    if info.kind is FileKind.TORCH_ZIP:
        archive = Archive(file)
        return zip_tree(archive), TensorReader(zip_bytes(archive))
    layout = scan_legacy(file)
    tree = load_inert(layout.main)
    return tree, TensorReader(legacy_bytes(info.path, layout, tree))


def _notes(info: FileInfo, root: object, place: str, tensors: Mapping[str, Tensor]) -> list[str]:
    notes: list[str] = []
    if place:
        notes.append(f"The weights are the entry {quote(place)} of a training checkpoint.")
    if (
        isinstance(root, Mapping)
        and not place
        and (extra := [k for k in root if k not in tensors])
    ):
        notes.append(f"{len(extra)} entries without weights were ignored: {quote(extra[0])} ...")
    if info.classes or is_module(root):
        notes.append(
            f"The tensors were taken out of pickled objects of {quote(info.classes[0])} without "
            "running their code."
        )
    return notes


def _read_trusted(info: FileInfo, state_key: str | None) -> Checkpoint:
    """Unpickle with code, because the owner of the file said so."""
    import torch

    try:
        loaded: Any = torch.load(info.path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise FileFault(
            f"pickled code that cannot be found here ({type(error).__name__}: {quote(error)})",
            "its class must be importable to run it",
            "Put its package on the Python path, or pass --arch in place of --trust-pickle: the "
            "tensors are then read without its code",
        ) from error
    ran = sorted({*info.classes, *dangerous_names(info.globals, info.called)})
    notes = [f"Code was run at your word (--trust-pickle): {', '.join(map(quote, ran[:20]))}."]
    found: dict[str, Any] = {}

    def walk(node: object, place: str, depth: int) -> None:
        if isinstance(node, torch.nn.Module):
            found[place] = node
        elif isinstance(node, Mapping) and depth < 4 and "param_groups" not in node:
            if node and any(isinstance(value, torch.Tensor) for value in node.values()):
                found[place] = node
                return
            for key, value in node.items():
                walk(value, f"{place}.{key}" if place else str(key), depth + 1)

    walk(loaded, "", 0)
    states = {
        place: {
            str(name): value.detach()
            for name, value in (node.state_dict() if hasattr(node, "state_dict") else node).items()
            if isinstance(value, torch.Tensor)
        }
        for place, node in found.items()
    }
    place, tensors = one_of(states, state_key)
    if place:
        notes.append(f"The weights are the entry {quote(place)} of a training checkpoint.")
    chosen = found[place]
    module = chosen if isinstance(chosen, torch.nn.Module) else None
    return _finish(info, tensors, notes, module=module)


def _finish(
    info: FileInfo,
    tensors: Mapping[str, Tensor],
    notes: list[str],
    *,
    plan: Plan | None = None,
    module: nn.Module | None = None,
) -> Checkpoint:
    if not tensors:
        raise FileFault("no tensors", "there are no weights in the file", "Name the weights file")
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    noise = {}
    if plan is not None and plan.noise is not None:
        noise = {k: v for k, v in tensors.items() if k.startswith(NOISE_PREFIX)}
        tensors = {k: v for k, v in tensors.items() if k not in noise}
    named, prefix, counters = strip_prefixes(tensors)
    if prefix:
        notes.append(f"The prefix {prefix!r} was stripped from every name.")
    if counters:
        notes.append(f"Counters of an averaging wrapper were ignored: {', '.join(counters)}.")
    own = {name.removeprefix(NOISE_PREFIX): tensor for name, tensor in noise.items()}
    return Checkpoint(info, named, notes, plan, module, prefix, own)


def _check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity; a mask of zeros and minus infinities is what attention keeps."""
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    # float8 has no isfinite of its own.
    values = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
    bad = int((~torch.isfinite(values)).sum())
    if not bad or (
        values.is_floating_point() and bool(((values == 0) | torch.isneginf(values)).all())
    ):
        return
    raise FileFault(
        f"{bad} of {tensor.numel()} numbers of tensor {quote(name)} that are NaN or infinite",
        "such a network computes nothing, or the file is damaged",
        "Use an earlier checkpoint of that training, or download the file again",
    )
