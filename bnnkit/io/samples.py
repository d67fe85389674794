"""Samples as `.npz`, and tensors without a module as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from bnnkit.errors import FileRefusedError
from bnnkit.io.atomic import atomic_path

__all__ = ["read_images", "read_tensors", "write_samples", "write_tensors"]


def write_samples(
    path: str | Path,
    images: Tensor,
    latents: Tensor,
    rows: Tensor,
    labels: Tensor | None = None,
) -> Path:
    """Write samples: `samples` uint8 `[n, c, h, w]`, `latents`, `bank_index` and `labels`.

    Args:
        path: The file to appear.
        images: uint8 `[n, c, h, w]`.
        latents: What they were made from `[n, ...]`.
        rows: Which proposal each one is `[n]`; -1 where there was no bank.
        labels: int64 `[n]` of a class-conditional generator.
    """
    arrays = {
        "samples": images.numpy(),
        "latents": latents.numpy(),
        "bank_index": rows.numpy(),
    }
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return Path(path)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write named tensors, and texts beside them, whole or not at all."""
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as part:
        part.write_bytes(save(plain, None if metadata is None else dict(metadata)))
    return Path(path)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        FileRefusedError: There is no such file, or it is no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileRefusedError(
            f"Reading {str(path)!r}",
            str(error).splitlines()[0][:200],
            "it is not the safetensors file that a run wrote",
            "Run the command again.",
        ) from error


def read_images(path: str | Path) -> Tensor:
    """Read the images of `samples.npz`, uint8 `[n, c, h, w]`; no pickle is run.

    Raises:
        FileRefusedError: There is no such file, or it holds no such images.
    """
    asked = f"Reading {str(path)!r}"
    try:
        with np.load(path, allow_pickle=False) as found:
            images = torch.from_numpy(found["samples"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise FileRefusedError(
            asked,
            (str(error).splitlines() or [type(error).__name__])[0][:200],
            "it is not the file of samples that a run wrote",
            "Run the command again.",
        ) from error
    if images.dtype != torch.uint8 or images.dim() != 4 or not len(images):
        kind = str(images.dtype).removeprefix("torch.")
        raise FileRefusedError(
            asked, f"{kind} {list(images.shape)}", "samples are uint8 [n, c, h, w]"
        )
    return images
