"""What a file is, from its bytes: its kind, its members, the names its pickles refer to."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from bnnkit.errors import did_you_mean
from bnnkit.io.archive import Archive
from bnnkit.io.faults import FileFault, quote, reading
from bnnkit.io.foreign import foreign_fault
from bnnkit.io.inert import load_inert
from bnnkit.io.onnxhead import read_onnx_head
from bnnkit.io.pickles import PickleScan, scan_pickle
from bnnkit.io.policy import dangerous_names, refuse_dangerous, unknown_names
from bnnkit.io.programs import native_payloads
from bnnkit.io.torchfile import LEGACY_START, legacy_bytes, nested_archive, scan_legacy

__all__ = ["FileInfo", "FileKind", "sniff", "vet"]

HEAD = 512
HEADER_LIMIT = 100 << 20  # the safetensors library has the same
# torch.hub: the end of a published name is the start of the file's sha256. Eight digits alone
# are more likely a date.
_HUB_NAME = re.compile(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.\w+$")


class FileKind(StrEnum):
    """The forms in which a model comes."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"
    ONNX = "onnx"
    RUN = "run"


@dataclass(frozen=True)
class FileInfo:
    """What a model file is.

    Args:
        path: The file, or the run directory.
        kind: Its form.
        bytes: Its size (of a run directory: of its `model.safetensors`).
        members: Names inside it: members of a zip, tensors of safetensors, files of a run.
        globals: Every `module.Name` that its pickles refer to, sorted; nothing was executed.
        called: Those of them that unpickling would call.
        metadata: What its header says about itself.
    """

    path: Path
    kind: FileKind
    bytes: int
    members: tuple[str, ...] = ()
    globals: tuple[str, ...] = ()
    called: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights_path(self) -> Path:
        """The file that holds the tensors."""
        return self.path / "model.safetensors" if self.kind is FileKind.RUN else self.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in its pickles that are no part of plain weights, the author's own first."""
        names = () if self.kind is FileKind.TORCHSCRIPT else unknown_names(self.globals)
        return tuple(sorted(names, key=lambda name: (name.startswith("torch."), name)))


def sniff(path: str | Path) -> FileInfo:
    """Say what a file is, after checking that it is whole; nothing of it is executed.

    Checksums are verified where the form has them: each member of a zip, and the whole file
    where its name ends in the start of its sha256 as torch.hub's do.

    Args:
        path: A model file or a run directory.

    Raises:
        FileRefusedError: It is missing, broken, or no model file.
    """
    path = Path(path)
    with reading(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise _missing(path) from None
        if stat.S_ISDIR(mode):
            return _sniff_directory(path)
        if not stat.S_ISREG(mode):
            raise FileFault("a device or pipe", "only a regular file can be checked", "Copy it")
        return _sniff_file(path)


def vet(info: FileInfo, *, trust_pickle: bool = False) -> None:
    """Refuse a file that could run a command when another library loads it.

    Call it before handing the file to `torch.jit.load` or `torch.export.load`.

    Args:
        info: What `sniff` found.
        trust_pickle: Whether the owner allowed the file to run its code.

    Raises:
        FileRefusedError: Its pickles refer to dangerous names, or it carries compiled code.
    """
    if trust_pickle:
        return
    with reading(info.path):
        refuse_dangerous(info.globals, info.called)
        if info.kind is not FileKind.PT2:
            return
        remedy = "Export it again as plain weights and graph, or pass --trust-pickle"
        if native := native_payloads(info.members):
            raise FileFault(
                f"the payload {quote(native[0])} in a .pt2 archive",
                "loading it would run compiled code or a pickle",
                remedy,
            )
        if info.classes:
            raise FileFault(
                f"a .pt2 archive with a pickled {quote(info.classes[0])}",
                "loading it would run that code",
                remedy,
            )


def _missing(path: Path) -> FileFault:
    folder = path.parent if path.parent.is_dir() else None
    names = [entry.name for entry in folder.iterdir()][:1000] if folder else []
    hint = did_you_mean(path.name, names) if names else ""
    if not hint.startswith("Did you mean"):
        hint = "Check the spelling and the folder"
    return FileFault("no such file", "there is nothing to read", hint.removesuffix("."))


def _sniff_directory(path: Path) -> FileInfo:
    names = tuple(sorted(entry.name for entry in path.iterdir()))
    missing = [name for name in ("plan.json", "model.safetensors") if name not in names]
    if missing:
        models = [n for n in names if n.endswith((".safetensors", ".pt", ".pth", ".ckpt", ".th"))]
        raise FileFault(
            f"a directory without {' and '.join(missing)}",
            "only a run directory of bnnkit can be read as a whole",
            f"Name a file in it, such as {quote(models[0])}" if models else "Name a model file",
        )
    inner = sniff(path / "model.safetensors")
    return FileInfo(path, FileKind.RUN, inner.bytes, names, metadata=inner.metadata)


def _sniff_file(path: Path) -> FileInfo:
    size = path.stat().st_size
    if size == 0:
        raise FileFault("an empty file", "the download or the disk gave up before the first byte")
    with path.open("rb") as file:
        head = file.read(HEAD)
        if head.startswith(b"PK"):
            info = _sniff_zip(path, size, file)
        elif head[2 : 2 + len(LEGACY_START)] == LEGACY_START and head[:1] == b"\x80":
            info = _sniff_legacy(path, size, file)
        elif head[8:9] == b"{" and size > 8:
            info = _sniff_safetensors(path, size, file)
        elif (metadata := read_onnx_head(file, size)) is not None:
            info = FileInfo(path, FileKind.ONNX, size, metadata=metadata)
        else:
            raise foreign_fault(head)
    _check_hub_name(path)
    return info


def _check_hub_name(path: Path) -> None:
    if (match := _HUB_NAME.search(path.name)) is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(match[1]):
        raise FileFault(
            f"content whose sha256 starts with {digest[: len(match[1])]}",
            f"the name says {match[1]}, so the file is damaged or has been changed",
            "Download it again; if the end of its name is no checksum, rename it",
        )


def _scans(archive: Archive) -> list[PickleScan]:
    """Scan every pickle of an archive, also those in archives inside it."""
    found: list[PickleScan] = []
    for name in archive.names:
        if name.endswith(".pkl"):
            found.append(scan_pickle(archive.read(name)))
        elif not name.startswith(("data/weights/", "data/constants/", "data/sample_inputs/")):
            continue
        else:
            data = archive.read(name)
            if data.startswith(b"PK\3\4"):
                found.extend(_scans(nested_archive(data)))
            elif "opaque_obj_" in name:
                found.append(scan_pickle(data))
    return found


def _zip_kind(archive: Archive) -> FileKind:
    names = archive.names
    if "archive_format" in archive and archive.read("archive_format") == b"pt2":
        return FileKind.PT2
    if "constants.pkl" in archive and "data.pkl" in archive:
        return FileKind.TORCHSCRIPT
    if "data.pkl" in archive:
        return FileKind.TORCH_ZIP
    if all(name.endswith(".npy") for name in names):
        raise FileFault("a NumPy .npz file", "it holds arrays, no model", "Data go to --data")
    if "serialized_exported_program.json" in names:
        raise FileFault(
            "a .pt2 archive of torch before 2.8",
            "this torch has another layout",
            "Load it with the torch that wrote it and export it again",
        )
    if "model.weights.h5" in names:
        raise FileFault("a Keras model", "bnnkit reads PyTorch", "Convert it to PyTorch")
    models = [n for n in names if n.endswith((".pt", ".pth", ".safetensors", ".ckpt", ".onnx"))]
    raise FileFault(
        f"a zip archive of {len(names)} files without the data.pkl of torch.save",
        "it is no model file itself",
        f"Unpack it and name {quote(models[0])}" if models else "Name the model file",
    )


def _sniff_zip(path: Path, size: int, file: BinaryIO) -> FileInfo:
    archive = Archive(file)
    kind = _zip_kind(archive)
    archive.verify()
    scans = _scans(archive)
    metadata = {
        name.lstrip("."): archive.read(name).decode("ascii", "replace").strip()
        for name in ("version", ".format_version", "archive_version", "byteorder")
        if name in archive and archive.size_of(name) < 100
    }
    return FileInfo(path, kind, size, archive.names, *_names(scans), metadata=metadata)


def _names(scans: list[PickleScan]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = {name for scan in scans for name in scan.globals}
    called = {name for scan in scans for name in scan.called}
    return tuple(sorted(names)), tuple(sorted(called))


def _sniff_legacy(path: Path, size: int, file: BinaryIO) -> FileInfo:
    layout = scan_legacy(file)
    names, called = _names([layout.scan])
    if not dangerous_names(names, called):
        legacy_bytes(path, layout, load_inert(layout.main))  # it ends where its storages end
    return FileInfo(path, FileKind.TORCH_LEGACY, size, layout.keys, names, called)


def _sniff_safetensors(path: Path, size: int, file: BinaryIO) -> FileInfo:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(HEADER_LIMIT, size - 8):
        raise FileFault(
            f"a safetensors header of {length} bytes in a file of {size} bytes",
            "the file was cut off or damaged",
        )
    try:
        header: Any = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("no table")
    except (ValueError, RecursionError) as error:
        raise FileFault(
            f"a safetensors header that cannot be read ({quote(error)})",
            "the file was cut off or damaged",
        ) from error
    _check_with_library(path)
    metadata = header.pop("__metadata__", None) or {}
    return FileInfo(path, FileKind.SAFETENSORS, size, tuple(header), metadata=metadata)


def _check_with_library(path: Path) -> None:
    """Let the safetensors library check offsets, shapes and the end of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np"):
            pass
    except SafetensorError as error:
        raise FileFault(
            f"a broken safetensors file ({quote(error, 120)})", "the file was cut off or damaged"
        ) from error
