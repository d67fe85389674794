"""Arrays to images and labels: `.npz` files, and what factories return."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.io.datasets.source import UNLABELLED, HeldImages, Part, Source

__all__ = ["class_names", "inputs_of", "labels_of", "paired", "read_npz"]

_PARTS = ("x_train", "y_train", "x_test", "y_test")
_PAIRS = (("images", "labels"), ("x", "y"))
_KEYS = "Use the keys x_train, y_train, x_test, y_test, or images, labels, or x, y."
_IMAGE_CHANNELS = (1, 3, 4)


def read_npz(
    path: Path, input_shape: tuple[int, ...] | None = None, *, labelled: bool = True
) -> Source:
    """Read an `.npz` file; pickled arrays in it are refused.

    Inputs are `[n, h, w]`, `[n, h, w, c]`, `[n, c, h, w]` or `[n, features]`, uint8 or float.
    Floats outside [0, 1] are taken as what the model reads, without a normalisation.

    Args:
        path: The file.
        input_shape: `(c, h, w)` of the model, which decides where the order of axes is open.
        labelled: Whether labels are needed; False reads inputs alone, as one class.

    Raises:
        DataError: The file is broken, has other keys, or its arrays do not fit together.
    """
    arrays = _load(path)
    if not labelled:
        return _unlabelled(path, arrays, input_shape)
    if all(k in arrays for k in _PARTS):
        pairs = [_PARTS[:2], _PARTS[2:]]
    elif found := [p for p in (_PARTS[:2], *_PAIRS) if all(k in arrays for k in p)]:
        pairs = found[:1]
    else:
        keys = ", ".join(sorted(arrays)) or "none"
        raise DataError(
            f"Reading {str(path)!r}", f"the keys {keys}", "inputs and labels are needed", _KEYS
        )
    notes: list[str] = []
    what = f"Reading {str(path)!r}"
    inputs = [inputs_of(arrays[x], input_shape, f"{what}, {x!r}", notes) for x, _ in pairs]
    labels, names = labels_of([arrays[y] for _, y in pairs], f"{what}, {pairs[0][1]!r}")
    parts = paired(inputs, labels, what)
    return _source(path, inputs, parts, names or class_names(labels), bool(names), notes)


def _unlabelled(
    path: Path, arrays: dict[str, np.ndarray], input_shape: tuple[int, ...] | None
) -> Source:
    """Read the inputs of an `.npz` file, of which labels are not wanted or not there."""
    what = f"Reading {str(path)!r}"
    keys = [k for k in ("x_train", "x_test") if k in arrays]
    if "x_train" not in keys:
        # a single array means itself, whatever it is called
        keys = [k for k in ("images", "x", *(arrays if len(arrays) == 1 else ())) if k in arrays]
        keys = keys[:1]
    if not keys:
        found = ", ".join(sorted(arrays)) or "none"
        raise DataError(
            what, f"the keys {found}", "it is open which of them are the inputs",
            "Use the key images, or x, or x_train and x_test.",
        )  # fmt: skip
    notes: list[str] = []
    inputs = [inputs_of(arrays[k], input_shape, f"{what}, {k!r}", notes) for k in keys]
    labels = [torch.zeros(len(x), dtype=torch.int64) for x in inputs]
    return _source(path, inputs, paired(inputs, labels, what), UNLABELLED, True, notes)


def _source(
    path: Path,
    inputs: list[Tensor],
    parts: list[Part],
    classes: tuple[str, ...],
    known: bool,
    notes: list[str],
) -> Source:
    """Put together what was read; floats that are no images are taken as they are."""
    as_given = any(x.is_floating_point() and not _is_unit_image(x) for x in inputs)
    return Source(
        name=path.stem,
        train=parts[0],
        test=parts[1] if len(parts) > 1 else None,
        classes=classes,
        classes_known=known,
        as_given=as_given,
        crops=not as_given,
        notes=list(dict.fromkeys(notes)),
    )


def inputs_of(
    array: np.ndarray | Tensor,
    input_shape: tuple[int, ...] | None,
    what: str,
    notes: list[str],
) -> Tensor:
    """Bring inputs to `[n, c, h, w]` or `[n, features]`, uint8 or float32.

    Args:
        array: Inputs in any of the orders that `read_npz` names.
        input_shape: Shape of one input of the model, or None.
        what: The start of an error.
        notes: Receives what was assumed.

    Raises:
        DataError: The shape or type is none of those, or values are not finite.
    """
    x = _typed(array, what)
    if x.dim() == 3:
        return x[:, None].contiguous()
    if x.dim() == 4:
        return _channels_first(x, input_shape, notes).contiguous()
    if x.dim() == 2:
        return x.contiguous()
    raise DataError(
        what,
        f"inputs of shape {list(x.shape)}",
        "the axes cannot be told apart",
        "Use [n, h, w], [n, h, w, c], [n, c, h, w] or [n, features].",
    )


def labels_of(arrays: list[np.ndarray], what: str) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """Bring the labels of all parts to int64 `[n]`.

    Returns:
        The labels, and the class names where the labels are text.

    Raises:
        DataError: Labels are not one whole number or one word each.
    """
    flat = [a.reshape(len(a)) if a.ndim and a.size == len(a) else a for a in arrays]
    for a in flat:
        if a.ndim != 1:
            raise _bad_labels(what, f"labels of shape {list(a.shape)}")
    joined = np.concatenate(flat)
    sizes = [len(a) for a in flat]
    if joined.dtype.kind in "US":
        words, codes = np.unique(joined.astype(str), return_inverse=True)
        numbers = torch.from_numpy(codes.astype(np.int64))
        return list(torch.split(numbers, sizes)), tuple(str(w) for w in words)
    if joined.dtype.kind not in "iufb":
        raise _bad_labels(what, f"labels of type {joined.dtype}")
    whole = joined.astype(np.int64)
    if not np.array_equal(whole, joined) or (whole < 0).any():
        odd = joined[(whole != joined) | (whole < 0)][0]
        raise _bad_labels(what, f"the label {odd!s}")
    return list(torch.split(torch.from_numpy(whole), sizes)), None


def paired(inputs: list[Tensor], labels: list[Tensor], what: str) -> list[Part]:
    """Join the inputs and labels of each part.

    Raises:
        DataError: Their numbers differ, or the parts differ in shape or type.
    """
    for x, y in zip(inputs, labels, strict=True):
        if len(x) != len(y):
            raise DataError(what, f"{len(x)} inputs and {len(y)} labels", "they do not pair up")
    for x in inputs[1:]:
        if (x.shape[1:], x.dtype) != (inputs[0].shape[1:], inputs[0].dtype):
            raise DataError(
                what,
                f"training inputs are {list(inputs[0].shape[1:])} of {inputs[0].dtype}, "
                f"test inputs {list(x.shape[1:])} of {x.dtype}",
                "both parts must have one shape and type",
            )
    return [Part(HeldImages(x), y) for x, y in zip(inputs, labels, strict=True)]


def class_names(labels: list[Tensor]) -> tuple[str, ...]:
    """Name classes by number, up to the largest label that is present."""
    top = max((int(y.max()) for y in labels if len(y)), default=-1)
    return tuple(str(i) for i in range(top + 1))


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in file.files}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"Reading {str(path)!r}",
            f"{type(error).__name__}: {error}",
            "this is not an .npz file of plain arrays",
            "Write it with numpy.savez.",
        ) from error


def _typed(array: np.ndarray | Tensor, what: str) -> Tensor:
    """Return uint8 where the values are whole numbers from 0 to 255, else float32."""
    x = torch.as_tensor(array) if isinstance(array, Tensor) else _from_numpy(array, what)
    if x.is_complex() or not x.numel():
        raise DataError(what, f"{list(x.shape)} of type {x.dtype}", "no inputs to read in it")
    if x.dtype == torch.uint8:
        return x
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise DataError(what, "values that are not finite", "no model can read them")
    low, high = float(x.min()), float(x.max())
    # floats 0 ... 255 in steps of one are bytes that some loader converted
    if low >= 0 and 1 < high <= 255 and (x.dim() > 2 or not x.is_floating_point()):
        as_bytes = x.to(torch.uint8)
        if torch.equal(as_bytes.to(x.dtype), x):
            return as_bytes
    return x.float()


def _from_numpy(array: np.ndarray, what: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        raise DataError(what, f"type {array.dtype}", "inputs must be numbers") from error


def _channels_first(x: Tensor, input_shape: tuple[int, ...] | None, notes: list[str]) -> Tensor:
    """Tell `[n, h, w, c]` from `[n, c, h, w]`."""
    first, last = tuple(x.shape[1:]), (x.shape[3], x.shape[1], x.shape[2])
    if input_shape is not None and first != last and input_shape in (first, last):
        return x if input_shape == first else x.permute(0, 3, 1, 2)
    channels_first = first[0] in _IMAGE_CHANNELS
    channels_last = last[0] in _IMAGE_CHANNELS
    if channels_last and not channels_first:
        return x.permute(0, 3, 1, 2)
    if channels_first == channels_last:
        notes.append(f"inputs of shape {list(x.shape)} taken as [n, c, h, w]")
    return x


def _is_unit_image(x: Tensor) -> bool:
    return x.dim() == 4 and float(x.min()) >= 0 and float(x.max()) <= 1


def _bad_labels(what: str, found: str) -> DataError:
    return DataError(
        what, found, "a label is one class: 0, 1, 2 ... or a word", "Store one label an example."
    )
