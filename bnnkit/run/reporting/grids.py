"""Grids of images in a report, as its page shows them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import rows_of
from bnnkit.run.reporting.wording import shorten

__all__ = ["grids"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_GRID_BYTES = 8_000_000
_MOST_SIDE = 20_000
_MOST_GRIDS = 6
_GRID_TITLES = {"raw": "Raw generator", "filtered": "Filtered", "real": "Real images"}


def _png_size(text: object) -> tuple[str, int, int] | None:
    """Return a PNG as base64 of our own writing with its sides, None for anything else."""
    if not isinstance(text, str) or len(text) > _MOST_GRID_BYTES * 4 // 3:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) < 33 or not raw.startswith(_SIGNATURE) or raw[12:16] != b"IHDR":
        return None
    if binascii.crc32(raw[12:29]) != int.from_bytes(raw[29:33], "big"):
        return None
    width, height = (int.from_bytes(raw[i : i + 4], "big") for i in (16, 20))
    if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE):
        return None
    return base64.b64encode(raw).decode("ascii"), width, height


def grids(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the grids of images that are what they claim to be."""
    found = []
    for row in rows_of(body, "grids")[:_MOST_GRIDS]:
        if (picture := _png_size(row.get("png"))) is not None:
            name = str(row.get("name") or "-")
            data, width, height = picture
            title = _GRID_TITLES.get(name, shorten(name, 40))
            found.append({"name": title, "png": data, "width": width, "height": height})
    return found
