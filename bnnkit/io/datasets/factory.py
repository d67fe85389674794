"""Data from the owner's own code: a function that returns a training and a test part."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnnkit.errors import DataError, did_you_mean
from bnnkit.io.datasets import source as store
from bnnkit.io.datasets.arrays import class_names, inputs_of, labels_of, paired
from bnnkit.io.datasets.decode import pixels_of
from bnnkit.io.datasets.source import Source

__all__ = ["read_factory"]

_RETURNS = "Return (train, test): torch Datasets, or pairs of tensors (x, y)."


def read_factory(name: str, input_shape: tuple[int, ...] | None = None) -> Source:
    """Call `path/to/file.py:function` or `package.module:function` and read what it returns.

    Floats are taken as what the model reads, since the factory prepared them; bytes are scaled and
    normalised like images. A torch Dataset is read once, so random transforms in it are frozen.

    Args:
        name: File or module, a colon, and a function that needs no arguments.
        input_shape: `(c, h, w)` of the model, which decides where the order of axes is open.

    Raises:
        DataError: There is no such function, it raises, or it returns something else.
    """
    place, _, attribute = name.rpartition(":")
    factory = _find(place, attribute)
    what = f"Calling the data factory {name!r}"
    try:
        with _here_importable():
            returned = factory()
    except Exception as error:
        raise DataError(what, f"{type(error).__name__}: {error}", "the factory raised") from error
    if not isinstance(returned, tuple | list) or len(returned) != 2 or _is_array(returned[0]):
        raise DataError(what, _describe(returned), "that is not two parts", _RETURNS)
    notes: list[str] = []
    read = [_arrays(part, what, notes) for part in returned]
    inputs = [inputs_of(x, input_shape, what, notes) for x, _ in read]
    labels, names = labels_of([y for _, y in read], what)
    parts = paired(inputs, labels, what)
    named = names or _own_classes(returned[0])
    floats = any(x.is_floating_point() for x in inputs)
    return Source(
        name=attribute,
        train=parts[0],
        test=parts[1],
        classes=named or class_names(labels),
        classes_known=bool(named),
        as_given=floats,
        crops=not floats,
        notes=list(dict.fromkeys(notes)),
    )


def _find(place: str, attribute: str) -> Callable[[], Any]:
    what = f"Loading the data factory {place + ':' + attribute!r}"
    try:
        with _here_importable():
            module = _module(place)
    except FileNotFoundError as error:
        raise DataError(what, f"no file {place!r}", "", "Check the path.") from error
    except Exception as error:
        raise DataError(
            what, f"{type(error).__name__}: {error}", f"{place!r} cannot be imported"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise DataError(
            what, f"no function {attribute!r} in it", "", did_you_mean(attribute, known)
        )
    return found  # type: ignore[no-any-return]


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    name = f"bnnkit_data_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look themselves up there
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _here_importable() -> Iterator[None]:
    """Let the factory import what lies in the working folder, as `python -m` would."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _arrays(part: Any, what: str, notes: list[str]) -> tuple[Any, np.ndarray]:  # noqa: ANN401
    """Return inputs and labels of one part as arrays."""
    if isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[0]):
        return part[0], np.asarray(part[1])
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")) or isinstance(part, dict):
        raise DataError(what, _describe(part), "a part of it cannot be indexed", _RETURNS)
    notes.append("torch Datasets of the factory were read once; random transforms are frozen")
    return _read_dataset(part, what)


def _read_dataset(part: Any, what: str) -> tuple[Tensor, np.ndarray]:  # noqa: ANN401
    xs: list[Tensor] = []
    ys: list[Any] = []
    try:
        for i in range(len(part)):
            x, y = part[i]
            xs.append(_item(x))
            ys.append(int(y) if isinstance(y, Tensor | np.generic) else y)
            if not i:
                _check_bytes(xs[0], len(part), what)
        return torch.stack(xs), np.asarray(ys)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            what,
            f"{type(error).__name__}: {error} at example {len(xs)}",
            "each must be one input and one label, all of one shape",
            _RETURNS,
        ) from error


def _item(x: Any) -> Tensor:  # noqa: ANN401 - a tensor, an array or a PIL image
    if hasattr(x, "convert") and hasattr(x, "tobytes"):
        return torch.from_numpy(pixels_of(x).transpose(2, 0, 1).copy())
    return torch.as_tensor(x)


def _check_bytes(x: Tensor, n: int, what: str) -> None:
    total = n * math.prod(x.shape) * x.element_size()
    if total > store.HELD_BYTES:
        raise DataError(
            what,
            f"{n} examples of {list(x.shape)}, {total / 2**30:.1f} GiB",
            f"a Dataset is held in memory, up to {store.HELD_BYTES / 2**30:.0f} GiB",
            "Name an image folder, which is read batch by batch.",
        )


def _own_classes(part: Any) -> tuple[str, ...] | None:  # noqa: ANN401
    classes = getattr(part, "classes", None)
    return tuple(str(c) for c in classes) if isinstance(classes, tuple | list) else None


def _is_array(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, Tensor | np.ndarray)


def _describe(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(type(v).__name__ for v in value)}"
    return f"a {type(value).__name__}"
