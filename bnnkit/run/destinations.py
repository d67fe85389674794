"""Where exported files go: named before any work, written aside, moved only when all are right."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.run.forms import ModelSource
from bnnkit.run.setup import as_model_spec

__all__ = ["SUFFIXES", "default_out", "refuse_existing", "staged", "targets"]

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
"""The forms that can be written, and how their files end."""

# a name that ends in a checksum, as torch.hub's do, must be that of the file
_CHECKSUM = re.compile(r"-(?=[0-9]*[a-f])[0-9a-f]{8,64}$")


def targets(
    model: ModelSource, out: Path, formats: Sequence[str] | None = None
) -> dict[str, Path]:
    """Return where each form goes.

    Args:
        model: What is exported; its file gives the name within a folder.
        out: A file with the suffix of a form, or a folder.
        formats: The forms; None takes what the name of the file says, or `onnx`.

    Raises:
        UsageError: A form is not known, or one file cannot hold what was asked for.
    """
    by_suffix = {suffix: form for form, suffix in SUFFIXES.items()}
    named = by_suffix.get(out.suffix.lower()) if not out.is_dir() else None
    wanted = list(dict.fromkeys(formats or [named or "onnx"]))
    for form in wanted:
        if form not in SUFFIXES:
            hint = did_you_mean(form, SUFFIXES)
            raise UsageError("Exporting a model", repr(form), "it is not a form", hint)
    if named is None:
        stem = _stem(model)
        return {form: out / f"{stem}{SUFFIXES[form]}" for form in wanted}
    if wanted != [named]:
        raise UsageError(
            "Exporting a model",
            f"the file {str(out)!r} for {', '.join(wanted)}",
            f"a file that ends in {out.suffix} holds {named} only",
            "Name a folder, or leave --format away.",
        )
    if _CHECKSUM.search(out.stem):
        raise UsageError(
            "Exporting a model",
            repr(out.name),
            "such a name says that the file's sha256 begins like this, and it will not",
            f"Name it {_CHECKSUM.sub('', out.stem) + out.suffix!r}.",
        )
    return {named: out}


def default_out(model: ModelSource) -> Path:
    """Return the folder that is written where none is named."""
    return Path(f"{_stem(model)}-export")


def _stem(model: ModelSource) -> str:
    """Return the name of a model's file, or of its class or architecture."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    spec = as_model_spec(model)
    if spec.file is None:
        return str(spec.arch).rpartition(":")[2]
    path = Path(spec.file).resolve()
    return path.name if path.is_dir() else _CHECKSUM.sub("", path.stem)


def refuse_existing(places: Mapping[str, Path], force: bool) -> None:
    """Refuse, before any work, to write where something is."""
    for path in places.values():
        if path.is_dir() or (path.exists() and not force):
            raise UsageError(
                "Exporting a model",
                repr(str(path)),
                "it is a folder" if path.is_dir() else "it exists already",
                "Name another place with --out"
                + ("." if path.is_dir() else ", or replace it with --force."),
            )
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise UsageError(
                "Exporting a model",
                repr(str(path)),
                f"{above.name!r} is a file and no folder",
                "Name another place with --out.",
            )


@contextmanager
def staged(places: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Yield a hidden place for each form beside its own; move all on success, else remove all."""
    folder = next(iter(places.values())).absolute().parent
    home = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        part = Path(tempfile.mkdtemp(prefix=".bnnkit-", suffix=".part", dir=home))
    except OSError as error:
        raise UsageError(
            "Exporting a model",
            repr(str(home)),
            error.strerror or type(error).__name__,
            "Name a place that you can write with --out.",
        ) from error
    try:
        yield {form: part / path.name for form, path in places.items()}
        folder.mkdir(parents=True, exist_ok=True)
        for path in places.values():
            os.replace(part / path.name, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
