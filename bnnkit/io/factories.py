"""Factories in the user's own files and modules: find, digest, import, and say what went wrong."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from torch import nn

from bnnkit.errors import ArchitectureError, did_you_mean

__all__ = [
    "absolute_target",
    "describe_exception",
    "find_source",
    "home_of",
    "importable",
    "is_file_target",
    "load_object",
    "names_in_file",
]


def is_file_target(target: str) -> bool:
    """Tell whether the part before the factory's name is a file rather than a module."""
    return target.endswith(".py") or "/" in target or os.sep in target


def absolute_target(target: str) -> str:
    """Make the path of a file absolute; module names stay."""
    if not is_file_target(target):
        return target
    try:
        return str(Path(target).expanduser().resolve())
    except (ValueError, RuntimeError, OSError) as error:
        raise ArchitectureError(
            f"Building from {target!r}", str(error), "it is not a path", "Name a Python file."
        ) from error


def find_source(target: str) -> Path | None:
    """Find the file behind a factory without running a line of it.

    Args:
        target: `path/to/file.py` or `pkg.mod`.

    Returns:
        The absolute path, or None: the file is absent, or the module is built in or unknown.
    """
    if is_file_target(target):
        path = Path(absolute_target(target))
        return path if path.is_file() else None
    # importlib.util.find_spec would import (run) the parent packages; walk down by hand instead
    importlib.invalidate_caches()
    search = [str(Path.cwd()), *sys.path]
    parts = target.split(".")
    spec = None
    for i in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    origin = spec.origin if spec is not None and spec.has_location else None
    return Path(origin).resolve() if origin is not None else None


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put a folder first on the import path for a while."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def home_of(target: str) -> Path:
    """Return the folder that has to be importable while the target is: its own, or the current."""
    return Path(absolute_target(target)).parent if is_file_target(target) else Path.cwd()


def load_object(target: str, name: str) -> object:
    """Import a file or module and take one object out of it.

    Args:
        target: `path/to/file.py` or `pkg.mod`.
        name: The factory, class or module instance in it; dots go deeper.

    Raises:
        ArchitectureError: The file or module is absent, its import raises, or it lacks the name.
    """
    importlib.invalidate_caches()
    with importable(home_of(target)):
        module = _import_file(target) if is_file_target(target) else _import_module(target)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ArchitectureError(
                f"Building '{target}:{name}'",
                f"no {part!r} in {module.__file__ or target!r}",
                "there is nothing to call",
                _suggest_callable(name, module),
            )
        found = getattr(found, part)
    return found


def _import_file(target: str) -> ModuleType:
    """Import a file under a name of its own, and keep it where pickle and dataclasses look."""
    path = Path(absolute_target(target))
    if not path.is_file():
        raise ArchitectureError(
            f"Building from {target!r}",
            f"no file {str(path)!r}",
            "there is no code to build from",
            "Name it as path/to/file.py:factory.",
        )
    key = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    alias = f"bnnkit_arch_{path.stem}_{key}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, path)
    if spec is None or spec.loader is None:
        raise ArchitectureError(
            f"Building from {target!r}", "a file that does not end in .py", "it is not Python"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[alias]
        raise _import_error(target, error) from error
    return module


def _import_module(target: str) -> ModuleType:
    """Import a module by its name."""
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{target}.".startswith(f"{error.name}."):
            raise ArchitectureError(
                f"Building from {target!r}",
                f"no provider and no module {error.name!r}",
                "there is no code to build from",
                did_you_mean(target, ["torchvision", "timm", "bnnkit", "path/to/file.py"]),
            ) from error
        raise _import_error(target, error) from error
    except (Exception, SystemExit) as error:
        raise _import_error(target, error) from error


def _import_error(target: str, error: BaseException) -> ArchitectureError:
    """Say which line of the user's code an import stopped at."""
    hint = "Correct it, or run it in the environment that it was written for."
    if "relative import" in str(error):
        hint = "Name it as a module: --arch package.module:factory."
    elif isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"Install {error.name!r}, or run where it can be imported."
    return ArchitectureError(
        f"Importing {target!r}",
        describe_exception(error, home_of(target)),
        "its code stops before it defines a model",
        hint,
    )


def describe_exception(error: BaseException, folder: Path | None = None) -> str:
    """Write an exception with the line that raised it, the user's own line where there is one.

    Args:
        error: The exception.
        folder: Where the user's code lives; None leaves the line out.
    """
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    if folder is None:
        return text
    ours = Path(__file__).parents[1]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not Path(frame.filename).is_relative_to(ours)
    ]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    for frame in (own or frames)[-1:]:
        return f"{frame.filename}:{frame.lineno}: {text}"
    return text


def _suggest_callable(name: str, module: ModuleType) -> str:
    """List what a module offers: its own classes, functions and ready-made modules."""
    offers = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (
            isinstance(value, nn.Module)
            or (callable(value) and getattr(value, "__module__", None) == module.__name__)
        )
    ]
    return did_you_mean(name, offers) if offers else "It defines no class and no function."


def names_in_file(path: Path) -> list[str]:
    """Return the classes and functions of a Python file without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    kinds = ast.FunctionDef | ast.ClassDef
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
