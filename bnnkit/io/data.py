"""`load_data`: from a data specification to normalised batches that fit a model."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from bnnkit.errors import DataError, UsageError, did_you_mean
from bnnkit.io.datasets.arrays import read_npz
from bnnkit.io.datasets.factory import read_factory
from bnnkit.io.datasets.fit import augmentation, fit_shapes
from bnnkit.io.datasets.folder import read_folder
from bnnkit.io.datasets.named import NAMES, canonical_name, read_named
from bnnkit.io.datasets.normalise import normalisation
from bnnkit.io.datasets.source import Part, Source
from bnnkit.io.datasets.split import Preprocess, Split
from bnnkit.io.datasets.subsets import random_rows, stratified_rows
from bnnkit.spec import DataSpec

__all__ = ["Dataset", "Split", "load_data"]

TEST_SHARE = 0.2
"""Share of each class that becomes the test part where data come without one."""

_AUGMENT = ("auto", "none", "crop-flip")
_FINGERPRINT_IMAGES = 64


@dataclass(frozen=True)
class Dataset:
    """Data as one model reads them.

    Args:
        name: Known name, folder, file or factory.
        train: The training part.
        test: The test part.
        mean: Per-channel mean subtracted from inputs in [0, 1].
        std: Per-channel deviation divided by.
        classes: Class names; a label is an index into them.
        classes_known: False where the classes were counted from the labels that are present.
        input_shape: Shape of one input as the model receives it.
        fingerprint: 16 hex digits over all labels and a sample of the stored inputs.
        notes: What was split, resized, repeated or measured.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    classes_known: bool
    input_shape: tuple[int, ...]
    fingerprint: str
    notes: tuple[str, ...]


def load_data(spec: DataSpec) -> Dataset:
    """Load a data set and fit it to the model's input.

    Args:
        spec: What to load and how; see `DataSpec`.

    Returns:
        Training and test part, held as bytes where they fit in 2 GiB, normalised batch by batch.

    Raises:
        DataError: The data are not there, are broken, or do not fit `spec.input_shape`.
        UsageError: An option of the specification has no meaning.
    """
    _check(spec)
    source = _open(spec)
    parts = _parts(source, spec)
    have = parts[0].images.shape
    fit = fit_shapes(have, spec.input_shape, source.name)
    (train, test), size = fit.apply(parts)
    source.notes += fit.notes
    channels = fit.input_shape[0] if len(fit.input_shape) == 3 else 1
    if fit.flatten:
        channels = have[0]
    mean, std = normalisation(source, train.images, channels, spec.mean, spec.std)
    preprocess = Preprocess(
        unit=255.0 if train.images.is_byte else 1.0,
        mean=mean,
        std=std,
        size=size,
        repeat=fit.repeat,
        flatten=fit.flatten,
        augment=augmentation(spec.augment, source, have, fit),
    )
    count, known = len(source.classes), source.classes_known
    return Dataset(
        name=source.name,
        train=Split(train, preprocess, count, known),
        test=Split(test, preprocess, count, known),
        mean=mean,
        std=std,
        classes=source.classes,
        classes_known=known,
        input_shape=fit.input_shape,
        fingerprint=_fingerprint(train, test),
        notes=tuple(source.notes),
    )


def _check(spec: DataSpec) -> None:
    """Refuse options without a meaning before anything is read."""
    if spec.augment not in _AUGMENT:
        raise UsageError(
            "Augmenting", repr(spec.augment), "", did_you_mean(spec.augment, _AUGMENT)
        )
    if spec.limit is not None and spec.limit < 1:
        raise UsageError("Limiting the data", f"{spec.limit} examples", "it must be 1 or more")
    if spec.input_shape is not None and (
        len(spec.input_shape) not in (1, 3) or min(spec.input_shape) < 1
    ):
        raise UsageError(
            "Reading the input shape",
            ",".join(map(str, spec.input_shape)),
            "it is channels, height, width, or one number of features",
            "Use --input-shape 3,32,32.",
        )
    if spec.std is not None and not all(0 < s < math.inf for s in spec.std):
        raise UsageError("Normalising", f"the deviation {list(spec.std)}", "it must be positive")
    if spec.mean is not None and not all(map(math.isfinite, spec.mean)):
        raise UsageError("Normalising", f"the mean {list(spec.mean)}", "it must be finite")


def _open(spec: DataSpec) -> Source:
    """Tell the four kinds of names apart."""
    if known := canonical_name(spec.name):
        return read_named(known, spec.root, download=spec.download)
    path = Path(spec.name).expanduser()
    if path.is_dir():
        return read_folder(path, spec.input_shape)
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_npz(path, spec.input_shape)
    if ":" in spec.name:
        return read_factory(spec.name, spec.input_shape)
    raise DataError(
        f"Loading the data {spec.name!r}",
        "a file that is not .npz" if path.is_file() else "no such folder or file",
        "data are a known name, an image folder, an .npz file or a factory file.py:function",
        did_you_mean(spec.name, NAMES),
    )


def _parts(source: Source, spec: DataSpec) -> tuple[Part, Part]:
    """Split where there is no test part, and keep a random subset where there is a limit."""
    generator = torch.Generator().manual_seed(spec.split_seed)
    train, test = source.train, source.test
    if test is None:
        stays, held = stratified_rows(train.labels, TEST_SHARE, generator)
        if not len(held):
            raise DataError(
                f"Splitting {source.name!r}",
                f"{len(train)} examples, one a class",
                "nothing can be held out for a test",
            )
        train, test = train.select(stays), train.select(held)
        source.notes.append(
            f"no test part: {TEST_SHARE:.0%} of each class held out, seed {spec.split_seed}"
        )
    if spec.limit is None:
        return train, test
    first, second = (
        p.select(random_rows(len(p), spec.limit, generator)) if len(p) > spec.limit else p
        for p in (train, test)
    )
    return first, second


def _fingerprint(*parts: Part) -> str:
    """Digest all labels and a seeded sample of the stored inputs."""
    digest = hashlib.sha256()
    for part in parts:
        rows = random_rows(len(part), _FINGERPRINT_IMAGES, torch.Generator().manual_seed(0))
        digest.update(part.labels.numpy().tobytes())
        digest.update(str(part.images.shape).encode())
        for x in part.images.stream([rows]):
            digest.update(x.numpy().tobytes())
    return digest.hexdigest()[:16]
