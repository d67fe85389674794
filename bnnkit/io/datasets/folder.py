"""An image folder: `train/CLASS/*.jpg` beside `test/`, or class folders that are split here."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from bnnkit.errors import DataError
from bnnkit.io.datasets import source as store
from bnnkit.io.datasets.decode import (
    FolderImages,
    decode_all,
    header,
    image_suffixes,
    size_differs,
)
from bnnkit.io.datasets.source import HeldImages, Images, Part, Source

__all__ = ["folder_classes", "read_folder"]

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
_LAYOUT = "Lay them out as train/CLASS/*.jpg and test/CLASS/*.jpg, or as CLASS/*.jpg."
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def read_folder(
    root: Path, input_shape: tuple[int, ...] | None = None, *, labelled: bool = True
) -> Source:
    """Read an image folder.

    Args:
        root: A folder of class folders, or of `train` and `test` (`val`, `valid`, `validation`)
            that hold class folders.
        input_shape: `(c, h, w)` that images are brought to; None keeps what the files have.
        labelled: Whether class folders are needed; False takes images at any depth, as one class.

    Raises:
        DataError: The layout is another, a file is broken, or sizes differ without `input_shape`.
    """
    notes: list[str] = []
    train_root, test_root = _parts(root, notes)
    list_part = _listing if labelled else _flat_listing
    train = list_part(train_root, notes)
    test = list_part(test_root, notes) if test_root else None
    if test and (unknown := sorted(set(test.names) - set(train.names))):
        raise DataError(
            f"Reading {str(test_root)!r}",
            f"the class {unknown[0]!r}",
            f"it is not among the {len(train.names)} classes of {str(train_root)!r}",
            _LAYOUT,
        )
    layout = _layout([*train.paths, *(test.paths if test else [])], input_shape)
    shape = (layout.channels, *layout.size) if layout.size else None
    imagenet = shape == (3, 224, 224)
    if imagenet:
        notes.append("normalised with the mean and deviation of ImageNet")
    return Source(
        name=root.name or str(root.resolve().name),
        train=_part(train, train.names, layout),
        test=_part(test, train.names, layout) if test else None,
        classes=tuple(train.names),
        mean=_IMAGENET[0] if imagenet else None,
        std=_IMAGENET[1] if imagenet else None,
        notes=notes,
    )


def folder_classes(root: Path) -> tuple[str, ...]:
    """List the class names of an image folder, without decoding an image.

    Raises:
        DataError: The layout is another.
    """
    notes: list[str] = []
    return tuple(_listing(_parts(root, notes)[0], notes).names)


@dataclass(frozen=True)
class _Listing:
    """Image files of one part, by class."""

    names: list[str]
    files: list[list[Path]]

    @property
    def paths(self) -> list[Path]:
        return [p for paths in self.files for p in paths]


@dataclass(frozen=True)
class _Layout:
    """What the images are brought to, and whether all of them fit in memory."""

    channels: int
    size: tuple[int, int] | None
    held: bool


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _parts(root: Path, notes: list[str]) -> tuple[Path, Path | None]:
    """Find the folders of the training and the test part."""
    known = {p.name.lower(): p for p in _folders(root)}
    train = next((known[n] for n in _TRAIN if n in known), None)
    tests = [known[n] for n in _TEST if n in known]
    if train is None:
        if tests and len(tests) == len(known):
            raise DataError(
                f"Reading the image folder {str(root)!r}",
                f"{tests[0].name!r} without 'train'",
                "the training part is needed for the class names and the normalisation",
                _LAYOUT,
            )
        return root, None
    if len(tests) > 1:
        others = ", ".join(p.name for p in tests[1:])
        notes.append(f"test part is {tests[0].name!r}; not read: {others}")
    elif tests and tests[0].name.lower() not in _TEST[:2]:
        notes.append(f"test part is {tests[0].name!r}")
    return train, tests[0] if tests else None


def _listing(root: Path, notes: list[str]) -> _Listing:
    """List the images of each class folder, at any depth, in sorted order."""
    names, files, skipped = [], [], 0
    for folder in _folders(root):
        images, others = _images_in(folder)
        skipped += others
        if images:
            names.append(folder.name)
            files.append(images)
    if len(names) < 2:
        raise DataError(
            f"Reading the image folder {str(root)!r}",
            f"{len(names)} folders with images in them",
            "a classifier needs two classes or more",
            _LAYOUT,
        )
    _note_skipped(root, skipped, notes)
    return _Listing(names, files)


def _flat_listing(root: Path, notes: list[str]) -> _Listing:
    """List all images of a folder, at any depth, in sorted order, as one class."""
    images, others = _images_in(root)
    if not images:
        raise DataError(
            f"Reading the image folder {str(root)!r}",
            f"{others} files, none of them an image",
            "there is nothing to read",
            "Name the folder that holds the images.",
        )
    _note_skipped(root, others, notes)
    return _Listing(list(store.UNLABELLED), [images])


def _images_in(folder: Path) -> tuple[list[Path], int]:
    """Return the images below a folder in sorted order, and how many other files there are."""
    suffixes = image_suffixes()
    found = sorted(
        os.path.join(at, name)
        for at, _, inside in os.walk(folder, followlinks=True)
        for name in inside
        if not name.startswith(".")
    )
    images = [Path(p) for p in found if os.path.splitext(p)[1].lower() in suffixes]
    return images, len(found) - len(images)


def _note_skipped(root: Path, count: int, notes: list[str]) -> None:
    if count:
        notes.append(f"{count} files under {root.name!r} are not images and were skipped")


def _layout(paths: list[Path], input_shape: tuple[int, ...] | None) -> _Layout:
    """Decide channels and size, and whether the decoded images may be held."""
    if input_shape is not None and len(input_shape) == 3 and input_shape[0] in (1, 3):
        channels, size = input_shape[0], (input_shape[1], input_shape[2])
    else:
        # stops at the first image in colour: only an all-grey folder has every header read
        channels, size = 3 if any(header(p)[0] for p in paths) else 1, None
    first = size or header(paths[0])[1]
    held = len(paths) * channels * math.prod(first) <= store.HELD_BYTES
    if size is None and not held:
        for path in paths:
            if (found := header(path)[1]) != first:
                raise size_differs(path, found, paths[0], first)
    return _Layout(channels, size if held else first, held)


def _part(listing: _Listing, names: list[str], layout: _Layout) -> Part:
    labels = [names.index(n) for n in listing.names]
    counts = torch.tensor([len(f) for f in listing.files])
    images: Images
    if layout.held:
        images = HeldImages(decode_all(listing.paths, layout.channels, layout.size))
    else:
        assert layout.size is not None  # set wherever the images are not held
        images = FolderImages(tuple(listing.paths), layout.channels, layout.size)
    return Part(images, torch.tensor(labels).repeat_interleave(counts))
