"""`load_data`: from a data specification to normalised batches that fit a model."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bnnkit.errors import DataError, UsageError, did_you_mean
from bnnkit.io.datasets.arrays import read_npz
from bnnkit.io.datasets.classes import check_count, class_indices, only_classes
from bnnkit.io.datasets.factory import read_factory
from bnnkit.io.datasets.fit import augmentation, fit_shapes
from bnnkit.io.datasets.folder import folder_classes, read_folder
from bnnkit.io.datasets.named import NAMES, canonical_name, read_named
from bnnkit.io.datasets.normalise import normalisation
from bnnkit.io.datasets.source import UNLABELLED, Part, Source, unlabelled
from bnnkit.io.datasets.split import Preprocess, Split
from bnnkit.io.datasets.subsets import random_rows, stratified_rows
from bnnkit.spec import DataSpec

__all__ = ["Dataset", "Split", "load_data", "other_classes"]

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
        divided: Whether they came without a test part, so that a share of them is it.
        mean: Per-channel mean subtracted from inputs in [0, 1].
        std: Per-channel deviation divided by.
        classes: Class names; a label is an index into them.
        classes_known: False where the classes were counted from the labels that are present.
        input_shape: Shape of one input as the model receives it.
        fingerprint: 16 hex digits over all labels and a sample of the stored inputs.
        notes: What was split, left out, resized, repeated or measured.
    """

    name: str
    train: Split
    test: Split
    divided: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    classes_known: bool
    input_shape: tuple[int, ...]
    fingerprint: str
    notes: tuple[str, ...]

    @property
    def whole(self) -> Split:
        """Both parts as one."""
        return self.train.joined(self.test)


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
    generator = torch.Generator().manual_seed(spec.split_seed)
    found = _open(spec)
    source = _with_test(found, spec, generator)
    if spec.classes is not None:  # after the split: an example is in one part whatever is chosen
        source = only_classes(source, spec.classes)
    parts = _limited(source, spec.limit, generator)
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
        divided=found.test is None,
        mean=mean,
        std=std,
        classes=source.classes,
        classes_known=known,
        input_shape=fit.input_shape,
        fingerprint=_fingerprint(train, test),
        notes=tuple(source.notes),
    )


def other_classes(spec: DataSpec) -> DataSpec:
    """Name the same data with the classes that a specification leaves out.

    A folder without a normalisation of its own is measured on the classes that are loaded: to
    show these to a model, set `mean` and `std` to those of the data that it was trained on.

    Args:
        spec: Data restricted to some classes.

    Returns:
        The specification with the other classes, in the order of the data.

    Raises:
        DataError: The data cannot be read, or have no such class.
        UsageError: It is not restricted, or leaves out fewer than two classes.
    """
    if spec.classes is None:
        raise UsageError(
            f"Taking the other classes of {spec.name!r}",
            "all classes are in use",
            "there are no others",
            "Choose the classes to use, such as --classes 0,1,2,3,4.",
        )
    names = _class_names(spec)
    chosen = set(class_indices(spec.name, names, spec.classes))
    others = tuple(name for i, name in enumerate(names) if i not in chosen)
    if len(others) < 2:
        raise UsageError(
            f"Taking the other classes of {spec.name!r}",
            f"{len(others)} of {len(names)} left out",
            "fewer than two classes are no data set",
            "Use fewer classes.",
        )
    return replace(spec, classes=others)


def _class_names(spec: DataSpec) -> tuple[str, ...]:
    """Return the names of all classes; a folder's without decoding its images."""
    path = Path(spec.name).expanduser()
    if canonical_name(spec.name) is None and path.is_dir():
        return folder_classes(path)
    return _open(spec).classes


def _check(spec: DataSpec) -> None:
    """Refuse options without a meaning before anything is read."""
    if spec.augment not in _AUGMENT:
        raise UsageError(
            "Augmenting", repr(spec.augment), "", did_you_mean(spec.augment, _AUGMENT)
        )
    if spec.limit is not None and spec.limit < 1:
        raise UsageError("Limiting the data", f"{spec.limit} examples", "it must be 1 or more")
    if spec.classes is not None:
        check_count(spec.classes)
        if not spec.labelled:
            raise UsageError(
                f"Choosing classes of {spec.name!r}",
                ", ".join(spec.classes),
                "these data are read without their classes",
                "Leave the choice of classes out.",
            )
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
        return _of_one_class(read_named(known, spec.root, download=spec.download), spec)
    path = Path(spec.name).expanduser()
    if path.is_dir():
        return read_folder(path, spec.input_shape, labelled=spec.labelled)
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_npz(path, spec.input_shape, labelled=spec.labelled)
    if ":" in spec.name:
        return _of_one_class(read_factory(spec.name, spec.input_shape), spec)
    raise DataError(
        f"Loading the data {spec.name!r}",
        "a file that is not .npz" if path.is_file() else "no such folder or file",
        "data are a known name, an image folder, an .npz file or a factory file.py:function",
        did_you_mean(spec.name, NAMES),
    )


def _of_one_class(source: Source, spec: DataSpec) -> Source:
    """Forget the labels of data that come with them, where none are wanted."""
    if spec.labelled:
        return source
    test = None if source.test is None else unlabelled(source.test.images)
    return replace(
        source,
        train=unlabelled(source.train.images),
        test=test,
        classes=UNLABELLED,
        classes_known=True,
    )


def _with_test(source: Source, spec: DataSpec, generator: torch.Generator) -> Source:
    """Split where there is no test part."""
    if source.test is not None:
        return source
    stays, held = stratified_rows(source.train.labels, TEST_SHARE, generator)
    if not len(held):
        raise DataError(
            f"Splitting {source.name!r}",
            f"{len(source.train)} examples, one a class" if spec.labelled else "one example",
            "nothing can be held out for a test",
        )
    share = f"{TEST_SHARE:.0%} of each class" if spec.labelled else f"{TEST_SHARE:.0%}"
    note = f"no test part: {share} held out, seed {spec.split_seed}"
    return replace(
        source,
        train=source.train.select(stays),
        test=source.train.select(held),
        notes=[*source.notes, note],
    )


def _limited(source: Source, limit: int | None, generator: torch.Generator) -> tuple[Part, Part]:
    """Keep a random subset of each part where there is a limit."""
    assert source.test is not None  # split off where the data came without one
    if limit is None:
        return source.train, source.test
    first, second = (
        p.select(random_rows(len(p), limit, generator)) if len(p) > limit else p
        for p in (source.train, source.test)
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
