"""The object tree of a pickle built from inert stand-ins: no class of the file ever exists.

`torch.load(weights_only=True)` is not used: it allocates what the file declares, keeps its
allow-list in a process-wide variable, and refuses old pickled modules and pickle protocols 3-5.
Here tensors stay records until their place in the file has been checked.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bnnkit.io.faults import FileFault
from bnnkit.io.pickles import scan_pickle
from bnnkit.io.policy import modern_name, refuse_dangerous

__all__ = ["InertTree", "Storage", "Stub", "TensorRecord", "load_inert"]


@dataclass(eq=False)
class Storage:
    """Where numbers lie in the file: key, element type and count; none has been read."""

    key: Any
    dtype: Any
    count: Any


@dataclass(eq=False)
class TensorRecord:
    """A tensor as the pickle describes it; every field is unchecked until it is read."""

    storage: Any
    offset: Any = 0
    size: Any = ()
    stride: Any = ()
    dtype: Any = None
    form: str = "dense"


@dataclass(frozen=True)
class InertTree:
    """What a pickle describes.

    Args:
        root: Dictionaries, lists, numbers and texts, `TensorRecord` and `Stub` objects.
        storages: Every storage it refers to, by key.
    """

    root: Any
    storages: Mapping[str, Storage]


class Stub:
    """Stands for an instance of a class of the file: keeps its state, runs none of its code."""

    name = ""
    state: Any = None

    def __new__(cls, *args: object, **kwargs: object) -> Stub:
        """Take any arguments, and use none."""
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Take no items: what classes derived from containers hold are no weights."""

    def append(self, item: object) -> None:
        """Take no items."""

    def extend(self, items: object) -> None:
        """Take no items."""

    def add(self, item: object) -> None:
        """Take no items."""


class _Table(dict[Any, Any]):
    """Stands for every dictionary class; instances take the attributes that BUILD sets."""

    def __new__(cls, *args: object) -> _Table:
        table = super().__new__(cls)
        if args and isinstance(args[-1], Mapping | list | tuple):
            table.update(args[-1])
        return table

    def __init__(self, *args: object) -> None:
        pass


class _Parameter:
    """Stands for the class `Parameter`: building one gives its data back."""

    def __new__(cls, data: object = None, *_: object) -> Any:  # noqa: ANN401 - a record
        return _first(data)


def _dense(storage: object, offset: object, size: object, stride: object, *_: object) -> object:
    return TensorRecord(storage, offset, size, stride)


def _dense_v3(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    grad: object = None,
    hooks: object = None,
    dtype: object = None,
    *_: object,
) -> object:
    return TensorRecord(storage, offset, size, stride, dtype)


def _first(data: object = None, *_: object) -> object:
    # Never a class or function: the pickle could then set attributes on it.
    return data if isinstance(data, TensorRecord | list | tuple | dict) else None


def _from_type(
    func: Callable[..., object], _type: object, args: Iterable[object], _state: object
) -> object:
    # Only the rebuild functions of this file; anything else would be called on the file's word.
    if func not in _REBUILD.values():
        raise FileFault("a tensor rebuilt by an unknown function", "it is damaged or hostile")
    return func(*args)


def _form(form: str) -> Callable[..., object]:
    return lambda *_: TensorRecord(None, form=form)


_REBUILD: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _dense,
    "torch._utils._rebuild_tensor_v2": _dense,
    "torch._utils._rebuild_tensor_v3": _dense_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _form("device (XLA)"),
    "torch._utils._rebuild_wrapper_subclass": _form("wrapped"),
    "torch._utils._rebuild_qtensor": _form("quantised"),
    "torch._utils._rebuild_sparse_tensor": _form("sparse"),
    "torch._utils._rebuild_nested_tensor": _form("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _form("meta (without data)"),
}
_CONTAINERS: dict[str, Any] = {
    "collections.OrderedDict": _Table,
    "collections.defaultdict": _Table,
    "collections.Counter": _Table,
    "builtins.dict": _Table,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "torch.nn.parameter.Parameter": _Parameter,
    "torch.nn.parameter.Buffer": _Parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.jit._pickle.restore_type_tag": _first,
}


def _reconstructor(cls: object, *_: object) -> object:
    """Protocols 0 and 1 build instances through `copyreg._reconstructor(class, base, state)`."""
    if isinstance(cls, type) and issubclass(cls, Stub | _Table):
        return cls()
    raise FileFault("an object rebuilt from no class", "it is damaged or hostile")


class _InertUnpickler(pickle.Unpickler):
    """The standard machine, with every name and storage of the file replaced by a stand-in."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._stubs: dict[str, Any] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the base class
        """Return the stand-in of a global; no module is imported."""
        full = modern_name(module, name)
        if full in _REBUILD:
            return _REBUILD[full]
        if full in _CONTAINERS:
            return _CONTAINERS[full]
        if full == "copyreg._reconstructor":
            return _reconstructor
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            return name.removesuffix("Storage")
        if full not in self._stubs:
            self._stubs[full] = type("Stub", (Stub,), {"name": full})
        return self._stubs[full]

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401 - as in the base class
        """Return the record of a storage, or the stand-in class of an old pickled module."""
        kind = pid[0]
        if kind == "module" and isinstance(pid[1], type) and issubclass(pid[1], Stub):
            return pid[1]  # ('module', class, source file, source text)
        if kind != "storage":
            raise FileFault(
                "a reference to something other than a tensor storage", "it is damaged"
            )
        if len(pid) > 5 and pid[5] is not None:
            raise FileFault(
                "views of storages as torch before 0.4 wrote them",
                "no later version does",
                "Load and save it again with a torch of 2018 or later",
            )
        storage = Storage(key=pid[2], dtype=pid[1], count=pid[4])
        self.storages.setdefault(str(pid[2]), storage)
        return storage


def load_inert(data: bytes) -> InertTree:
    """Build the object tree of one pickle without importing or calling anything of the file.

    Args:
        data: The stream, from its first opcode to its STOP.

    Returns:
        The tree and its storages.

    Raises:
        FileFault: The pickle is broken or hostile.
    """
    scan = scan_pickle(data)  # bounds depth, lengths and memo before the real machine runs
    refuse_dangerous(scan.globals, scan.called)
    try:
        machine = _InertUnpickler(data[: scan.end])
        return InertTree(machine.load(), machine.storages)
    except FileFault:
        raise
    except Exception as error:
        raise FileFault(
            f"a broken pickle ({type(error).__name__})",
            "the description of the tensors was cut off or damaged",
        ) from error
