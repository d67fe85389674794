"""Tensors of a pickled `nn.Module` whose class is never imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bnnkit.io.faults import FileFault
from bnnkit.io.inert import Stub, TensorRecord

__all__ = ["harvest_module", "is_module", "state_entries"]

MODULES_LIMIT = 100_000


def is_module(value: object) -> bool:
    """Return whether a stand-in holds what every `nn.Module` holds."""
    return (
        isinstance(value, Stub)
        and isinstance(value.state, dict)
        and {"_parameters", "_buffers", "_modules"} <= value.state.keys()
    )


def _named(table: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - unchecked
    if isinstance(table, Mapping):
        for key, value in table.items():
            if isinstance(key, str):
                yield key, value


def harvest_module(module: Stub) -> dict[str, TensorRecord]:
    """Return the tensors of a pickled module under the names of its `state_dict`.

    Args:
        module: A stand-in for which `is_module` holds.

    Returns:
        Parameters and persistent buffers, in the order of registration.

    Raises:
        FileFault: The modules contain themselves, or there are absurdly many.
    """
    found: dict[str, TensorRecord] = {}
    visited = 0

    def walk(node: Stub, prefix: str, path: frozenset[int]) -> None:
        nonlocal visited
        visited += 1
        if id(node) in path or visited > MODULES_LIMIT:
            raise FileFault("a module that contains itself", "no network does")
        state = node.state
        transient = state.get("_non_persistent_buffers_set") or ()
        for name, value in _named(state["_parameters"]):
            if isinstance(value, TensorRecord):
                found[prefix + name] = value
        for name, value in _named(state["_buffers"]):
            if isinstance(value, TensorRecord) and name not in transient:
                found[prefix + name] = value
        for name, child in _named(state["_modules"]):
            if is_module(child):
                walk(child, f"{prefix}{name}.", path | {id(node)})

    walk(module, "", frozenset())
    return found


def state_entries(root: Stub, registered: Mapping[str, frozenset[str]]) -> dict[str, TensorRecord]:
    """Return the tensors of a TorchScript object tree under the names of its `state_dict`.

    Args:
        root: The stand-in of the outermost scripted module.
        registered: `{class name: names of its parameters and buffers}` from the archive's code;
            a class that is not listed gives all its tensors.

    Raises:
        FileFault: The objects contain themselves, or there are absurdly many.
    """
    found: dict[str, TensorRecord] = {}
    visited = 0

    def walk(node: Stub, prefix: str, path: frozenset[int]) -> None:
        nonlocal visited
        visited += 1
        if id(node) in path or visited > MODULES_LIMIT:
            raise FileFault("a scripted module that contains itself", "no network does")
        names = registered.get(node.name)
        for name, value in _named(node.state):
            if isinstance(value, TensorRecord):
                if names is None or name in names:
                    found[prefix + name] = value
            elif isinstance(value, Stub):
                walk(value, f"{prefix}{name}.", path | {id(node)})

    walk(root, "", frozenset())
    return found
