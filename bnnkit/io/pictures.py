"""Images to PNG, as a file or as text."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from torch import Tensor

from bnnkit.io.atomic import atomic_path
from bnnkit.io.vision import torchvision

__all__ = ["grid_png", "write_grid"]


def write_grid(images: Tensor, path: str | Path, *, columns: int = 8) -> Path:
    """Write images side by side as one PNG, whole or not at all.

    Args:
        images: uint8 `[n, c, h, w]` with one channel or three.
        path: The file to appear, which ends in `.png`.
        columns: Images in a row.

    Returns:
        The path.
    """
    path = Path(path)
    with atomic_path(path) as part:
        torchvision().utils.save_image(images.float() / 255, part, nrow=columns, padding=2)
    return path


def grid_png(images: Tensor, *, columns: int = 8) -> str:
    """Return images side by side as a PNG in base64.

    Args:
        images: As of `write_grid`.
        columns: Images in a row.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = write_grid(images, Path(folder) / "grid.png", columns=columns)
        return base64.b64encode(written.read_bytes()).decode("ascii")
