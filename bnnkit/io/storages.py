"""Records of tensors turned into tensors, after their place in the file has been checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from bnnkit.io.faults import FileFault, quote
from bnnkit.io.inert import Storage, Stub, TensorRecord

if TYPE_CHECKING:
    import torch

__all__ = ["BytesOf", "TensorReader", "check_layout", "element_width"]

_STORAGE_DTYPES = {
    **{"Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
    **{"Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128"},
    **{"Untyped": "uint8"},
}
_WIDTHS = {
    **{"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2},
    **{"Char": 1, "Byte": 1, "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1},
    **{"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1},
}
# An expanded tensor repeats stored numbers; beyond this many it is taken for a bomb.
EXPANSION_LIMIT = 1 << 20


class BytesOf(Protocol):
    """Gives the raw bytes of the storage with this key, which must be exactly that long."""

    def __call__(self, key: str, size: int) -> bytes:
        """Return `size` bytes or raise FileFault."""


def element_width(kind: object) -> int:
    """Return the bytes of one element of a storage class such as `Float`.

    Raises:
        FileFault: There is no such class.
    """
    if str(kind) not in _WIDTHS:
        raise FileFault(f"a storage of type {quote(kind)}", "torch has no such type")
    return _WIDTHS[str(kind)]


def check_layout(size: Any, stride: Any, offset: Any, count: int) -> None:  # noqa: ANN401
    """Check that a strided tensor lies inside its storage.

    Args:
        size: Its shape, unchecked.
        stride: Its strides in elements, unchecked.
        offset: Its first element, unchecked.
        count: Elements of the storage.

    Raises:
        FileFault: It does not, or these are no layout at all.
    """
    numbers = [offset, *size, *stride]
    if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise FileFault("a tensor whose shape or strides are no numbers", "it is damaged")
    if len(size) > 64:
        raise FileFault(f"a tensor of {len(size)} axes", "torch has at most 64")
    if 0 in size:
        return
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= count:
        raise FileFault(
            f"a tensor of shape {list(size)} that reaches element {last} of a storage of {count}",
            "it would read beyond its numbers",
        )
    if math.prod(size) > max(count, EXPANSION_LIMIT):
        raise FileFault(
            f"a tensor of shape {list(size)} over a storage of {count} elements",
            "it claims far more numbers than the file holds",
        )


class TensorReader:
    """Reads the tensors of one file; storages that several share are read once.

    Args:
        bytes_of: Gives the raw bytes of a storage.
    """

    def __init__(self, bytes_of: BytesOf) -> None:
        self._bytes_of = bytes_of
        self._flat: dict[tuple[str, str], torch.Tensor] = {}

    def read(self, record: TensorRecord, name: str) -> torch.Tensor:
        """Return a contiguous tensor of its own on the CPU, wherever it was saved.

        Raises:
            FileFault: The tensor is quantised, sparse or damaged.
        """
        if record.form != "dense":
            raise FileFault(
                f"the {record.form} tensor {quote(name)}",
                "bnnkit operates on dense floating-point weights",
                "Save the model before it is quantised or made sparse",
            )
        storage = record.storage
        if not isinstance(storage, Storage) or type(storage.count) is not int:
            raise FileFault(f"tensor {quote(name)} without a storage", "it is damaged")
        stored = _dtype_of(storage.dtype, name)
        dtype = _dtype_of(record.dtype, name) if record.dtype is not None else stored
        count = storage.count * stored.itemsize // dtype.itemsize
        if storage.count < 0:
            raise FileFault(f"tensor {quote(name)} of {storage.count} elements", "it is damaged")
        check_layout(record.size, record.stride, record.offset, count)
        flat = self._storage(str(storage.key), storage.count * stored.itemsize, dtype)
        if 0 in record.size:
            return flat.new_empty(record.size)
        view = flat.as_strided(record.size, record.stride, record.offset)
        return view.clone().contiguous()

    def _storage(self, key: str, size: int, dtype: torch.dtype) -> torch.Tensor:
        import torch

        known = (key, str(dtype))
        if known not in self._flat:
            raw = bytearray(self._bytes_of(key, size))
            if not raw:
                flat = torch.empty(0, dtype=dtype)
            elif dtype is torch.bool:
                # Any byte but 0 and 1 is undefined behaviour as a bool.
                flat = torch.frombuffer(raw, dtype=torch.uint8) != 0
            else:
                flat = torch.frombuffer(raw, dtype=dtype)
            self._flat[known] = flat
        return self._flat[known]


def _dtype_of(kind: object, name: str) -> torch.dtype:
    """Translate the name of a storage class or dtype."""
    import torch

    if isinstance(kind, type) and issubclass(kind, Stub):
        kind = kind.name.removeprefix("torch.")
    if isinstance(kind, str) and kind.startswith(("QInt", "QUInt")):
        raise FileFault(
            f"the quantised tensor {quote(name)}",
            "bnnkit operates on dense floating-point weights",
            "Save the model before it is quantised",
        )
    dtype = getattr(torch, _STORAGE_DTYPES.get(str(kind), str(kind)), None)
    if not isinstance(dtype, torch.dtype):
        raise FileFault(f"tensor {quote(name)} of type {quote(kind)}", "torch has no such type")
    return dtype
