"""Images to PNG files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from bnnkit.io.atomic import atomic_path
from bnnkit.io.vision import torchvision

__all__ = ["write_grid"]


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
