"""What the numbers of a trained autoencoder mean, kept beside its weights.

A plan names the architecture; likelihood, readings and range are the autoencoder's own, and a run
of `vae-fit` states them in `autoencoder.json`, so that whoever reads the run reads it as it was
trained. What the user states wins. A prior that is a function is code: its name is kept, to be
stated again, and nothing of it is run because a file says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from bnnkit.errors import BnnkitError, FileRefusedError, UsageError
from bnnkit.io.faults import quote
from bnnkit.io.rundir import AUTOENCODER_JSON, write_text
from bnnkit.spec.model import ModelSpec
from bnnkit.spec.vae import VaeSpec

__all__ = ["remembered", "write_meaning"]

_SCHEMA = 1
_OF_LIKELIHOOD = ("outputs", "decoder_variance_is", "decoder_sigma", "binarise")
"""Readings that mean nothing under another likelihood."""


def write_meaning(spec: VaeSpec, folder: Path) -> None:
    """Write what the numbers mean into a run directory.

    Args:
        spec: The autoencoder as it was trained, with nothing left open.
        folder: The run directory.
    """
    body = {key: value for key, value in spec.to_dict().items() if key != "model"}
    write_text(folder / AUTOENCODER_JSON, json.dumps({"schema": _SCHEMA, **body}, indent=1))


def remembered(spec: VaeSpec) -> VaeSpec:
    """Return an autoencoder with what its run directory says of it, where nothing was stated.

    Args:
        spec: The autoencoder as its owner named it.

    Raises:
        FileRefusedError: The directory's description is broken.
        UsageError: It was trained under a prior that is code, and none was stated.
    """
    path = Path(spec.model.file or "") / AUTOENCODER_JSON
    if spec.model.file is None or not path.is_file():
        return spec
    trained = _read(path, spec.model)
    if trained.prior not in ("normal", spec.prior) and spec.prior == "normal":
        raise UsageError(
            f"Reading {str(path)!r}", f"the prior {quote(trained.prior)}",
            "a prior that is code is run where it is stated, and not because a file names it",
            "Add --prior with that function.",
        )  # fmt: skip
    left = {key: value for key, value in asdict(trained).items() if key not in ("model", "prior")}
    if spec.likelihood not in (None, trained.likelihood):
        left = {key: value for key, value in left.items() if key not in _OF_LIKELIHOOD}
    if spec.decoder_sigma is not None:
        left.pop("decoder_variance_is", None)
    if spec.decoder_variance_is is not None:
        left.pop("decoder_sigma", None)
    open_fields = {key: value for key, value in left.items() if getattr(spec, key) is None}
    return replace(spec, allow_grey=spec.allow_grey or trained.allow_grey, **open_fields)


def _read(path: Path, model: ModelSpec) -> VaeSpec:
    """Read a description; it may come from a stranger."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["schema"] != _SCHEMA:
            raise ValueError(f"schema version {quote(body['schema'])}")
        return VaeSpec.from_dict({**body, "model": model.to_dict()})
    except (BnnkitError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileRefusedError(
            f"Reading {str(path)!r}", f"{type(error).__name__}: {quote(error)}",
            "it does not describe an autoencoder",
            "Name the model.safetensors beside it, and state what its numbers mean.",
        ) from error  # fmt: skip
