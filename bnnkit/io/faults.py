"""One way out of a bad file: whatever a reader stumbles over becomes a `FileRefusedError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnnkit.errors import BnnkitError, FileRefusedError

__all__ = ["DOWNLOAD_AGAIN", "FileFault", "quote", "reading"]

DOWNLOAD_AGAIN = "Download or copy it again, and compare its size with the original"


class FileFault(Exception):
    """What is wrong with a file, before the file's name is known.

    Args:
        found: What was found in the file.
        why: Why it cannot go on.
        hint: What to type next.
    """

    def __init__(self, found: str, why: str, hint: str = DOWNLOAD_AGAIN) -> None:
        super().__init__(found, why, hint)
        self.found, self.why, self.hint = found, why, hint


def quote(text: object, limit: int = 80) -> str:
    r"""Quote text that came out of a file: ASCII only, so that it cannot steer a terminal.

    >>> quote("a\x1b[2J")
    "'a\\x1b[2J'"
    """
    whole = str(text)
    return ascii(whole if len(whole) <= limit else whole[: limit - 3] + "...")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn every exception of the block into one refusal that names the file.

    Raises:
        FileRefusedError: The block raised anything that is not already one of our errors.
    """
    what = f"Reading {quote(path, 200)}"
    try:
        yield
    except BnnkitError:
        raise
    except FileFault as fault:
        hint = fault.hint if fault.hint.endswith("?") else fault.hint.rstrip(".") + "."
        raise FileRefusedError(what, fault.found, fault.why, hint) from None
    except PermissionError as error:
        raise FileRefusedError(
            what, "permission denied", "this user may not read it", "Change its permissions."
        ) from error
    except Exception as error:
        # Parsers of hostile bytes raise anything: struct, Unicode, Key, Attribute, Recursion,
        # Memory, BadZipFile, zlib, JSON errors. The kind helps whoever reports the file.
        raise FileRefusedError(
            what,
            f"{type(error).__name__}: {quote(error)}",
            "its content is broken",
            f"{DOWNLOAD_AGAIN}.",
        ) from error
