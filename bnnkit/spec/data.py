"""How data are named, and the preprocessing that travels with them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DataSpec"]


@dataclass(frozen=True)
class DataSpec:
    """A data set as its owner names it.

    Args:
        name: A known name (`digits`, `mnist`, `cifar10` ...), an image folder, an `.npz` file,
            or a factory `path/to/file.py:factory` / `pkg.mod:factory`.
        root: Where the files of a known name lie.
        download: Whether a known name may be fetched when it is not under `root`.
        mean: Per-channel mean subtracted from inputs in [0, 1]; None takes the name's own.
        std: Per-channel deviation divided by; None takes the name's own.
        input_shape: `[channels, height, width]` the model wants; images are resized to it.
        split_seed: Seed of the split where the data come without a test part.
        limit: Most examples taken from each part (a seeded random subset); None takes all.
        augment: `auto`, `none` or `crop-flip`: what the training batches go through.
        classes: Only these classes, by name or by number, labels renumbered in this order; None
            takes all.
        labelled: Whether examples need classes. False leaves classes unread, so that a folder
            needs no class folders and an `.npz` no labels: all are of one class.
    """

    name: str
    root: str | None = None
    download: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_shape: tuple[int, ...] | None = None
    split_seed: int = 0
    limit: int | None = None
    augment: str = "auto"
    classes: tuple[str, ...] | None = None
    labelled: bool = True
