"""Weights of TorchScript and `.pt2` archives, read as data.

`torch.jit.load` runs the `__setstate__` methods of the archive's code, and `torch.export.load`
unpickles payloads with `weights_only=False` and loads compiled libraries; neither is used here.
"""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from bnnkit.io.archive import Archive
from bnnkit.io.faults import FileFault, quote
from bnnkit.io.harvest import state_entries
from bnnkit.io.inert import Storage, Stub, TensorRecord
from bnnkit.io.storages import TensorReader
from bnnkit.io.torchfile import nested_archive, zip_bytes, zip_tree

if TYPE_CHECKING:
    import torch

__all__ = ["native_payloads", "read_pt2_weights", "read_torchscript_weights"]

_CLASS = re.compile(r"^class (\w+)\(Module\):$", re.MULTILINE)
_REGISTERED = re.compile(r"^  __(?:parameters|buffers)__ = (\[[^\]]*\])$", re.MULTILINE)

# torch._export.serde.schema.ScalarType
_SCALAR_TYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32"},
    **{8: "float64", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16"},
    **{28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2", 34: "uint32", 35: "uint64"},
}


def _registered(archive: Archive) -> dict[str, frozenset[str]]:
    """Read from the archive's source which attributes of a class are parameters and buffers."""
    out: dict[str, frozenset[str]] = {}
    for member in archive.names:
        if not (member.startswith("code/") and member.endswith(".py")):
            continue
        module = member.removeprefix("code/").removesuffix(".py").replace("/", ".")
        pieces = _CLASS.split(archive.read(member).decode("utf-8"))
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            lists = [ast.literal_eval(text) for text in _REGISTERED.findall(body)]
            out[f"{module}.{name}"] = frozenset(str(n) for names in lists for n in names)
    return out


def read_torchscript_weights(archive: Archive) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a TorchScript archive; its code is only looked at.

    Raises:
        FileFault: It is broken, hostile, or from before torch 1.4.
    """
    root = zip_tree(archive).root
    if not isinstance(root, Stub):
        raise FileFault("a TorchScript archive without a module", "there are no weights in it")
    reader = TensorReader(zip_bytes(archive))
    records = state_entries(root, _registered(archive))
    return {name: reader.read(record, name) for name, record in records.items()}


def native_payloads(members: tuple[str, ...]) -> list[str]:
    """Return the members of a `.pt2` archive that loading it would execute."""
    return [
        name
        for name in members
        if name.startswith(("data/aotinductor/", "data/executorch/"))
        or name.rpartition("/")[2].startswith(("custom_obj_", "opaque_obj_"))
        or name.endswith((".so", ".dll", ".dylib", ".cubin"))
    ]


def _integers(values: Any) -> tuple[int, ...]:  # noqa: ANN401 - unchecked JSON
    return tuple(value["as_int"] for value in values)


def _payload(archive: Archive, folder: str, name: str, entry: dict[str, Any]) -> torch.Tensor:
    """Read one tensor that the configuration of a `.pt2` archive describes."""
    member = str(entry["path_name"])
    if entry.get("use_pickle"):
        inner = nested_archive(archive.read(f"{folder}/{member}"))
        record = zip_tree(inner).root
        if not isinstance(record, TensorRecord):
            raise FileFault(f"a pickled payload {quote(name)} that is no tensor", "it is unusual")
        return TensorReader(zip_bytes(inner)).read(record, name)
    meta = entry["tensor_meta"]
    kind = _SCALAR_TYPES.get(meta["dtype"])
    if kind is None:
        raise FileFault(f"tensor {quote(name)} of type {quote(meta['dtype'])}", "it is not known")
    record = TensorRecord(
        Storage(member, "uint8", archive.size_of(f"{folder}/{member}")),
        meta["storage_offset"]["as_int"],
        _integers(meta["sizes"]),
        _integers(meta["strides"]),
        kind,
    )
    return TensorReader(zip_bytes(archive, folder)).read(record, name)


def read_pt2_weights(archive: Archive) -> dict[str, torch.Tensor]:
    """Return the state of the one program in a `.pt2` archive, under its eager names.

    Raises:
        FileFault: It is broken, hostile, holds no or several programs, or is of an old layout.
    """
    configs = [name for name in archive.names if name.endswith("_weights_config.json")]
    if len(configs) != 1:
        raise FileFault(
            f"a .pt2 archive with {len(configs)} sets of weights",
            "bnnkit reads archives of one program, as torch.export.save of torch 2.9 and later "
            "writes them",
            "Export the model again with this torch",
        )
    folder, _, _ = configs[0].rpartition("/")
    try:
        config = json.loads(archive.read(configs[0]))["config"]
        return {str(k): _payload(archive, folder, str(k), v) for k, v in config.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFault(
            f"a table of weights that is broken ({type(error).__name__}: {quote(error)})",
            "the archive is damaged",
        ) from error
