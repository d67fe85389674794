"""Files that are no models: recognised by their first bytes, each with its own remedy."""

from __future__ import annotations

import re

from bnnkit.io.faults import FileFault

__all__ = ["foreign_fault"]

# (first bytes, what it is, what to do); the first match counts.
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a NumPy array", "Name the checkpoint; arrays of data go to --data"),
    (b"\x89PNG", "a PNG image", "Name the checkpoint, not a picture"),
    (b"\xff\xd8\xff", "a JPEG image", "Name the checkpoint, not a picture"),
    (b"GIF8", "a GIF image", "Name the checkpoint, not a picture"),
    (b"\x89HDF", "an HDF5 file (Keras)", "Convert it to PyTorch; safetensors is best"),
    (b"GGUF", "a GGUF file of llama.cpp", "Name the PyTorch checkpoint that it was made from"),
    (b"%PDF", "a PDF document", "Name the checkpoint"),
    (b"\x7fELF", "a compiled program", "Name the checkpoint; a program is never loaded"),
    (b"MZ", "a Windows program", "Name the checkpoint; a program is never loaded"),
    (
        b"\x1f\x8b",
        "a gzip archive",
        "Unpack it with 'gunzip' or 'tar xzf' and name the file inside",
    ),
    (b"\xfd7zXZ", "an xz archive", "Unpack it with 'tar xJf' or 'unxz' and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it with 'unzstd' and name the file inside"),
    (b"BZh", "a bzip2 archive", "Unpack it with 'bunzip2' and name the file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it with '7z x' and name the file inside"),
    (b"Rar!", "a RAR archive", "Unpack it and name the file inside"),
)

TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")


def _text_fault(head: bytes) -> FileFault | None:
    """Recognise the texts that downloads leave behind in place of a model."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs.github.com/"):
        return FileFault(
            "a Git LFS pointer of a few lines",
            "the weights themselves were never fetched",
            "Run 'git lfs pull' in that repository",
        )
    if start.startswith((b"../", b"/annex/objects/")) and b"annex/objects/" in start:
        return FileFault(
            "a git-annex pointer",
            "the weights themselves were never fetched",
            "Run 'git annex get' in that repository",
        )
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return FileFault(
            "a web page (HTML)",
            "the download saved a page about the file, or a login or error page, in its place",
            "Download it again from the direct link (on GitHub and Hugging Face: 'resolve' or "
            "'raw', not 'blob')",
        )
    if start.startswith((b"<?xml", b"<error")):
        return FileFault(
            "an XML text",
            "download servers answer with one when access is denied or the link has expired",
            "Open it in an editor to see what the server said, then download again",
        )
    if start.startswith((b"{", b"[")) and TEXT.fullmatch(head):
        return FileFault(
            "a JSON text",
            "it holds no tensors",
            "Name the weights file, often model.safetensors or *.pt beside it",
        )
    if TEXT.fullmatch(head):
        return FileFault(
            "a text file", "it holds no tensors", "Name the checkpoint (.safetensors, .pt, .pth)"
        )
    return None


def foreign_fault(head: bytes) -> FileFault:
    """Return the fault that names what a file is that is no model.

    Args:
        head: The first bytes of the file, at least 265 where it has them.
    """
    for magic, what, hint in MAGIC:
        if head.startswith(magic):
            return FileFault(what, "that is not a model file", hint)
    if head[257:262] == b"ustar":
        return FileFault(
            "a tar archive", "that is not a model file", "Unpack it and name the file inside"
        )
    if not head.strip(b"\0"):
        return FileFault(
            "nothing but zero bytes",
            "the disk or the download reserved the space and never filled it",
        )
    if (fault := _text_fault(head)) is not None:
        return fault
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and len(head) > 2:
        return FileFault(
            "a plain Python pickle",
            "torch.save did not write it, or its beginning is damaged",
            "Load it where it was made and write safetensors, or torch.save a state_dict",
        )
    return FileFault(
        f"unknown content starting with {head[:8].hex(' ')}",
        "it is none of safetensors, torch.save, TorchScript, .pt2, ONNX",
        "Name a model file, or a run directory that bnnkit wrote",
    )
