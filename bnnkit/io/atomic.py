"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnnkit.errors import UsageError

__all__ = ["atomic_directory", "atomic_path", "refuse_replacing"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, else remove it.

    The file keeps its name, in a hidden folder beside: some writers put the name into the file.

    Args:
        path: The file to appear. Missing parent folders are made.

    Yields:
        The path to write to.

    Raises:
        UsageError: `path` is a directory.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError("Writing a file", repr(str(path)), "it is a directory", "Name a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _sibling(path, ".part")
    folder.mkdir()
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_directory(
    out: str | Path, force: bool = False, *, replaceable: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yield a temporary sibling directory; rename it to `out` on success, else remove it.

    An existing `out` is swapped, so at each moment the old or the new one is complete on the disk.

    Args:
        out: The directory to appear. Missing parent folders are made.
        force: Whether an existing `out` may be replaced.
        replaceable: Names that a replaced `out` may hold. Another name in it means that it is
            somebody's folder and not an earlier result, and `force` does not reach that far.

    Yields:
        The directory to write into.

    Raises:
        UsageError: `out` exists and may not be replaced. Raised before any work.
    """
    out = Path(os.path.abspath(out))
    refuse_replacing(out, force, replaceable)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = _sibling(out, ".part")
    part.mkdir()
    try:
        yield part
        _swap(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def refuse_replacing(out: Path, force: bool, replaceable: frozenset[str]) -> None:
    """Refuse an `out` that may not be replaced; the arguments are those of `atomic_directory`.

    Raises:
        UsageError: It may not be replaced.
    """
    asked = "Writing a directory"
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(
            asked, repr(str(out)), "it is a file or a link", "Name another directory with --out."
        )
    names = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if not names:
        return
    if not force:
        raise UsageError(
            asked,
            repr(str(out)),
            "it exists already",
            "Name another directory with --out, or replace it with --force.",
        )
    strange = [name for name in names if name not in replaceable]
    if strange:
        raise UsageError(
            asked,
            f"{strange[0]!r} in {str(out)!r}",
            "bnnkit did not write it, and replacing the directory would delete it",
            "Name another directory with --out, or remove this one yourself.",
        )


def _swap(part: Path, out: Path) -> None:
    """Move `part` to `out`; what was there goes aside first and comes back if that fails."""
    if not out.exists():
        os.replace(part, out)
        return
    old = _sibling(out, ".old")
    os.replace(out, old)
    try:
        os.replace(part, out)
    except BaseException:
        os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(path: Path, suffix: str) -> Path:
    """Name a hidden file beside `path` that nobody else uses."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{suffix}")
