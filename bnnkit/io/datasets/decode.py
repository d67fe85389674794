"""Image files to pixels with Pillow, its one place here; each broken file is named."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnnkit.errors import DataError

__all__ = ["FolderImages", "decode", "decode_all", "header", "image_suffixes", "pixels_of"]

_GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B"}
_UNSUPPORTED = {"I", "F"}
_BLOCK = 256


def image_suffixes() -> frozenset[str]:
    """Return the file name endings that Pillow can read, in lower case, with the dot."""
    from PIL import Image

    Image.preinit()  # puts the common formats first: they are tried in this order at each file
    return frozenset(
        s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN
    ) - {".pdf", ".mpg", ".mpeg", ".h5", ".hdf"}


def header(path: Path) -> tuple[bool, tuple[int, int]]:
    """Return whether an image has colours, and its height and width; decodes nothing.

    Raises:
        DataError: The file is no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode not in _GREY, (image.height, image.width)
    except Exception as error:  # Pillow's readers raise whatever their parsers do
        raise _broken(path, error) from error


def decode(path: Path, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """Decode one file.

    Args:
        path: Image file of any format that Pillow reads.
        channels: 1 for grey, 3 for RGB.
        size: Height and width to resize to (bilinear, antialiased); None keeps the file's.

    Returns:
        uint8 `[h, w, channels]`.

    Raises:
        DataError: The file is no image, is cut short, or has values that 8 bits cannot hold.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(path.read_bytes())) as image:
            return pixels_of(image, channels, size)
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsers do
        raise _broken(path, error) from error


def pixels_of(
    image: Any,  # noqa: ANN401 - a PIL.Image.Image, whose type is optional
    channels: int | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return an open image as uint8 `[h, w, channels]`; `channels` None keeps grey or colour."""
    from PIL import Image

    if channels is None:
        channels = 1 if image.mode in _GREY else 3
    if image.mode in _UNSUPPORTED:
        raise ValueError(f"pixels of mode {image.mode!r} do not fit in 8 bits")
    if image.mode.startswith("I;16"):  # Pillow would clip, not scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    flat = np.frombuffer(image.tobytes(), np.uint8)  # half the cost of asarray for 32 x 32
    return flat.reshape(image.height, image.width, channels)


def decode_all(paths: Sequence[Path], channels: int, size: tuple[int, int] | None) -> Tensor:
    """Decode files into one tensor.

    Raises:
        DataError: A file is broken, or without `size` a file differs in size from the first.

    Returns:
        uint8 `[n, channels, h, w]`.
    """
    h, w = size or header(paths[0])[1]
    out = torch.empty(len(paths), channels, h, w, dtype=torch.uint8)

    def fill(start: int) -> None:
        files = paths[start : start + _BLOCK]
        block = np.empty((len(files), h, w, channels), np.uint8)
        for i, path in enumerate(files):
            pixels = decode(path, channels, size)
            if pixels.shape != block.shape[1:]:
                raise size_differs(path, pixels.shape[:2], paths[0], (h, w))
            block[i] = pixels
        out[start : start + len(files)] = torch.from_numpy(block).permute(0, 3, 1, 2)

    starts = range(0, len(paths), _BLOCK)
    pool = _pool()
    try:
        deque(pool.map(fill, starts), maxlen=0)
    finally:
        pool.shutdown(cancel_futures=True)
    return out


@dataclass(frozen=True)
class FolderImages:
    """Image files that are decoded batch by batch, the next batch while this one is used.

    Args:
        paths: The files.
        channels: 1 or 3.
        size: Height and width that they are brought to.
    """

    paths: tuple[Path, ...]
    channels: int
    size: tuple[int, int]
    is_byte: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return (self.channels, *self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Tensor) -> FolderImages:
        """Return the images of these rows."""
        return FolderImages(tuple(self.paths[i] for i in rows.tolist()), self.channels, self.size)

    def joined(self, other: FolderImages) -> FolderImages:
        """Return these images and, after them, those of another pool of their size."""
        return FolderImages((*self.paths, *other.paths), self.channels, self.size)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each chunk of rows, uint8 `[b, c, h, w]`."""
        waiting: deque[list[Future[np.ndarray]]] = deque()
        pool = _pool()
        try:
            for rows in chunks:
                waiting.append(
                    [
                        pool.submit(decode, self.paths[i], self.channels, self.size)
                        for i in rows.tolist()
                    ]
                )
                if len(waiting) > 1:
                    yield _stack(waiting.popleft())
            while waiting:
                yield _stack(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def size_differs(path: Path, size: Sequence[int], first: Path, wanted: Sequence[int]) -> DataError:
    """Return the error for images of more than one size."""
    return DataError(
        f"Reading {str(path)!r}",
        f"{size[0]} x {size[1]} pixels, and {str(first)!r} has {wanted[0]} x {wanted[1]}",
        "images of one data set must have one size",
        "Say the model's input with --input-shape 3,224,224 and they are resized to it.",
    )


def _stack(futures: list[Future[np.ndarray]]) -> Tensor:
    images = torch.from_numpy(np.stack([f.result() for f in futures]))
    return images.permute(0, 3, 1, 2).contiguous()


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"Decoding the image {str(path)!r}",
        f"{type(error).__name__}: {error}",
        "the file is broken or is not an image",
        "Repair or remove the file.",
    )
