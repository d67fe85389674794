"""torchvision, imported in this one place, also where its compiled operators are missing."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

import torch

from bnnkit.errors import UsageError

__all__ = ["torchvision"]

_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_lock = threading.Lock()
_libraries: list[torch.library.Library] = []  # a schema lives as long as its Library object


def torchvision() -> ModuleType:
    """Return the torchvision module.

    A CPU build of torch beside a CUDA build of torchvision cannot load the compiled operators, and
    the import stops at the first schema it looks for. Models, transforms and data sets are pure
    Python: they work once the two schemas exist. A matching pair takes the ordinary way.

    Raises:
        UsageError: torchvision is not installed.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except ImportError as error:
            raise UsageError(
                "Importing torchvision",
                str(error),
                "this name needs it",
                "Install it with 'pip install torchvision'.",
            ) from error
        except RuntimeError as error:
            if _SYMPTOM not in str(error):
                raise
        _define_schemas()
        return importlib.import_module("torchvision")


def _define_schemas() -> None:
    """Forget the half-imported package and declare what its import looks for."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if _libraries:
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)
