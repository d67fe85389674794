"""A zip archive from a stranger: every name, size and checksum is checked before it is used."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from bnnkit.io.faults import DOWNLOAD_AGAIN, FileFault, quote

__all__ = ["Archive"]

MEMBERS_LIMIT = 200_000
# torch stores weights uncompressed and deflates source code only.
DEFLATED_LIMIT = 256 << 20
CHUNK = 1 << 20


def _bomb(found: str) -> FileFault:
    return FileFault(
        found,
        "the archive claims more than the file can hold",
        "Do not open it; get the model from its author",
    )


class Archive:
    """The members of a zip file under their one top folder, as torch writes them.

    Args:
        file: An open binary file that can seek; it is not closed here.

    Raises:
        FileFault: The zip is truncated, or its directory is one that no honest writer makes.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0, 2)
        self.size = file.tell()
        file.seek(0)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise FileFault(
                f"a zip archive whose directory cannot be read ({quote(error)})",
                "the file was cut off or damaged",
            ) from error
        entries = self._zip.infolist()
        self._check_directory(entries)
        folders = {entry.filename.partition("/")[0] for entry in entries}
        nested = all("/" in entry.filename for entry in entries)
        self.prefix = f"{folders.pop()}/" if len(folders) == 1 and nested else ""
        self._entries = {entry.filename[len(self.prefix) :]: entry for entry in entries}

    def _check_directory(self, entries: list[zipfile.ZipInfo]) -> None:
        names = [entry.filename for entry in entries]
        if not names:
            raise FileFault("a zip archive without members", "there is nothing to read")
        if len(names) > MEMBERS_LIMIT:
            raise _bomb(f"{len(names)} members")
        if first := min(entry.header_offset for entry in entries):
            raise FileFault(
                f"a zip archive whose members lie {abs(first)} bytes off their places",
                "bytes were lost, or something was put in",
            )
        seen: set[str] = set()
        for name in names:
            parts = name.replace("\\", "/").split("/")
            if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
                raise FileFault(
                    f"a member named {quote(name)}",
                    "the name leads out of the archive",
                    "Do not unpack it; get the model from its author",
                )
            if name in seen:
                raise FileFault(
                    f"two members named {quote(name)}",
                    "two readers could see two different files in it",
                )
            seen.add(name)
        self._check_sizes(entries)

    def _check_sizes(self, entries: list[zipfile.ZipInfo]) -> None:
        deflated = packed = 0
        for entry in entries:
            if entry.flag_bits & 0x1:
                raise FileFault(
                    f"the encrypted member {quote(entry.filename)}",
                    "torch writes no encrypted archives",
                    "Decrypt it first",
                )
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileFault(
                    f"member {quote(entry.filename)} packed by method {entry.compress_type}",
                    "torch stores or deflates, so the directory is damaged",
                )
            packed += entry.compress_size
            if entry.compress_type == zipfile.ZIP_DEFLATED:
                deflated += entry.file_size
            elif entry.file_size != entry.compress_size:
                raise _bomb(f"a stored member of {entry.file_size} bytes")
        if packed > self.size:
            raise _bomb(f"members of {packed} bytes in a file of {self.size}")
        if deflated > DEFLATED_LIMIT:
            raise _bomb(f"compressed members that unpack to {deflated} bytes")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, without the top folder."""
        return tuple(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size_of(self, name: str) -> int:
        """Return the unpacked size of a member in bytes.

        Raises:
            FileFault: There is no such member.
        """
        if name not in self._entries:
            raise FileFault(
                f"no member {quote(name)} in the archive", "its table of contents needs it"
            )
        return self._entries[name].file_size

    def read(self, name: str) -> bytes:
        """Return one member, its checksum verified.

        Raises:
            FileFault: There is no such member, or its checksum is wrong.
        """
        self.size_of(name)
        return b"".join(self._chunks(name))

    def verify(self) -> None:
        """Check every member against its checksum (CRC-32).

        Raises:
            FileFault: A member is damaged.
        """
        for name in self._entries:
            for _ in self._chunks(name):
                pass

    def _chunks(self, name: str) -> Iterator[bytes]:
        left = self._entries[name].file_size
        try:
            with self._zip.open(self._entries[name]) as member:
                while chunk := member.read(CHUNK):
                    left -= len(chunk)
                    yield chunk
        except Exception as error:
            raise FileFault(
                f"a damaged member {quote(name)} ({quote(error)})",
                "its content does not fit its checksum",
                DOWNLOAD_AGAIN,
            ) from error
        if left:
            raise FileFault(f"a member {quote(name)} that ends early", "the file was cut off")
