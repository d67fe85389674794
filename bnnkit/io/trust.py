"""Which factories in files and modules the user has named on this machine; plans may run those."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

__all__ = ["default_store", "is_trusted", "remember"]


def default_store() -> Path | None:
    """Return where the list lives, or None where the user has no home."""
    try:
        return Path.home() / ".cache" / "bnnkit" / "trusted.json"
    except RuntimeError:
        return None


def is_trusted(arch: str, digest: str | None, *, store: Path | None = None) -> bool:
    """Tell whether the user named this very factory, with this very source, before.

    Args:
        arch: The factory with the absolute path of its source.
        digest: sha256 of the source; None where the factory has none.
        store: The list to look in; None takes the user's own.
    """
    return digest in _read(store or default_store()).get(arch, [])


def remember(arch: str, digest: str | None, *, store: Path | None = None) -> bool:
    """Note that the user named this factory; a store that cannot be written is left alone.

    Args:
        arch: The factory with the absolute path of its source.
        digest: sha256 of the source; None where the factory has none.
        store: The list to write to; None takes the user's own.

    Returns:
        Whether the factory is on the list now.
    """
    path = store or default_store()
    known = _read(path)
    if digest in known.get(arch, []):
        return True
    known.setdefault(arch, []).append(digest)
    return path is not None and _write(path, known)


def _read(path: Path | None) -> dict[str, list[str | None]]:
    """Read the list; what is absent, unreadable or malformed trusts nobody."""
    if path is None:
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return {str(arch): list(digests) for arch, digests in body["trusted"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(path: Path, known: dict[str, list[str | None]]) -> bool:
    """Replace the list in one step, so that a reader never sees half of it."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"schema": 1, "trusted": known}, file, indent=1)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True
