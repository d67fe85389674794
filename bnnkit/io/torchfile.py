"""The two layouts of `torch.save`: a zip of pickle and storages, and the older plain sequence."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bnnkit.io.archive import Archive
from bnnkit.io.faults import FileFault, quote
from bnnkit.io.inert import InertTree, load_inert
from bnnkit.io.pickles import PICKLE_LIMIT, PickleScan, scan_pickle
from bnnkit.io.storages import BytesOf, element_width

__all__ = [
    "LEGACY_START",
    "LegacyLayout",
    "legacy_bytes",
    "nested_archive",
    "scan_legacy",
    "zip_bytes",
    "zip_tree",
]

# The first pickle of a legacy file: the magic number 0x1950a86a20f9469cfc6c.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")


def zip_tree(archive: Archive, member: str = "data.pkl") -> InertTree:
    """Return the inert object tree of a zip checkpoint.

    Raises:
        FileFault: It is broken, hostile, or was saved on a big-endian machine.
    """
    if "byteorder" in archive and archive.read("byteorder") != b"little":
        raise FileFault(
            "numbers in big-endian order",
            "bnnkit reads little-endian files",
            "Load and save it on a little-endian machine (x86, ARM)",
        )
    return load_inert(archive.read(member))


def zip_bytes(archive: Archive, folder: str = "data") -> BytesOf:
    """Return the function that reads a storage of a zip checkpoint."""

    def bytes_of(key: str, size: int) -> bytes:
        name = f"{folder}/{key}"
        if archive.size_of(name) != size:
            raise FileFault(
                f"{archive.size_of(name)} bytes for a storage of {size}", "it is damaged"
            )
        return archive.read(name)

    return bytes_of


@dataclass(frozen=True)
class LegacyLayout:
    """Where the parts of a legacy file lie.

    Args:
        main: The pickle of the saved object.
        scan: What that pickle refers to.
        keys: The storages, in file order.
        data_start: Offset of the first storage.
    """

    main: bytes
    scan: PickleScan
    keys: tuple[str, ...]
    data_start: int


def scan_legacy(file: BinaryIO) -> LegacyLayout:
    """Find the five pickles of a legacy file: magic, version, system, object, storage keys.

    Raises:
        FileFault: They are broken or of an unknown version.
    """
    file.seek(0)
    head = file.read(2 * PICKLE_LIMIT)
    at = 0
    values: list[Any] = []
    for _ in range(3):
        scan = scan_pickle(head, at)
        values.append(load_inert(head[at : scan.end]).root)
        at = scan.end
    magic, version, system = values
    if magic != LEGACY_MAGIC or version != 1001 or not isinstance(system, dict):
        raise FileFault(
            f"a torch.save header of version {quote(version)}", "only version 1001 is known"
        )
    if system.get("little_endian") is not True:
        raise FileFault("numbers in big-endian order", "bnnkit reads little-endian files")
    main = scan_pickle(head, at)
    last = scan_pickle(head, main.end)
    keys = load_inert(head[main.end : last.end]).root
    if not isinstance(keys, list) or len(set(map(str, keys))) != len(keys):
        raise FileFault("a list of storages that is none", "the file is damaged")
    return LegacyLayout(head[at : main.end], main, tuple(map(str, keys)), last.end)


def _storage_table(
    path: Path, layout: LegacyLayout, tree: InertTree
) -> dict[str, tuple[int, int]]:
    """Return `{key: (offset, bytes)}` after checking that the last storage ends the file."""
    table: dict[str, tuple[int, int]] = {}
    total, at = path.stat().st_size, layout.data_start
    with path.open("rb") as file:
        for key in layout.keys:
            file.seek(at)
            raw = file.read(8)
            if len(raw) < 8:
                raise FileFault("a file that ends before its storages do", "it was cut off")
            if key not in tree.storages:
                raise FileFault(f"a storage {quote(key)} of no tensor", "the file is damaged")
            count = struct.unpack("<q", raw)[0]
            declared = tree.storages[key].count
            if type(declared) is not int or count != declared:
                raise FileFault(
                    f"{count} numbers where {quote(declared)} are declared",
                    "the file is damaged",
                )
            size = count * element_width(tree.storages[key].dtype)
            if size < 0 or at + 8 + size > total:
                raise FileFault(
                    f"a storage of {size} bytes at byte {at} of a file of {total} bytes",
                    "the file was cut off or damaged",
                )
            table[key] = (at + 8, size)
            at += 8 + size
    if at != total:
        raise FileFault(
            f"{total - at} bytes behind the last storage",
            "a complete file ends there, so this one is damaged or carries something else",
        )
    return table


def legacy_bytes(path: Path, layout: LegacyLayout, tree: InertTree) -> BytesOf:
    """Return the function that reads a storage of a legacy file, after checking its end.

    Args:
        path: The file.
        layout: Its parts.
        tree: Its object tree.

    Raises:
        FileFault: The storages do not end exactly where the file ends.
    """
    table = _storage_table(path, layout, tree)

    def bytes_of(key: str, size: int) -> bytes:
        start, length = table.get(key, (0, -1))
        if length != size:
            raise FileFault(f"{length} bytes for a storage of {size}", "the file is damaged")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return bytes_of


def nested_archive(data: bytes) -> Archive:
    """Open a `torch.save` zip that lies inside another archive."""
    return Archive(io.BytesIO(data))
