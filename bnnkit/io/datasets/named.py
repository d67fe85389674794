"""Data sets known by name: the embedded digits, Frey Faces, and those that torchvision reads."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnnkit.errors import DataError
from bnnkit.io.datasets.arrays import read_npz
from bnnkit.io.datasets.source import HeldImages, Part, Source
from bnnkit.io.vision import torchvision

__all__ = ["DEFAULT_ROOT", "NAMES", "canonical_name", "read_breast_cancer", "read_named"]

DEFAULT_ROOT = "./data"


@dataclass(frozen=True)
class _Named:
    """How torchvision calls a set, where its files lie, and its statistics in [0, 1]."""

    cls: str
    folder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crops: bool = False
    mirrors: bool = False


_KNOWN = {
    "mnist": _Named("MNIST", "MNIST/raw", (0.1307,), (0.3081,)),
    "fashion-mnist": _Named("FashionMNIST", "FashionMNIST/raw", (0.2860,), (0.3530,)),
    "kmnist": _Named("KMNIST", "KMNIST/raw", (0.1918,), (0.3483,)),
    "cifar10": _Named(
        "CIFAR10",
        "cifar-10-batches-py",
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        crops=True,
        mirrors=True,
    ),
    "cifar100": _Named(
        "CIFAR100",
        "cifar-100-python",
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        crops=True,
        mirrors=True,
    ),
    "svhn": _Named(
        "SVHN", "*_32x32.mat", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), crops=True
    ),
}
_DIGITS_MEAN, _DIGITS_STD = (0.3053,), (0.3760,)

NAMES = ("digits", "freyfaces", *_KNOWN)


def canonical_name(name: str) -> str | None:
    """Return the known name that a spelling stands for, or None.

    >>> canonical_name("CIFAR-10"), canonical_name("FashionMNIST"), canonical_name("./mnist")
    ('cifar10', 'fashion-mnist', None)
    """
    bare = name.lower().replace("-", "").replace("_", "")
    return next((n for n in NAMES if n.replace("-", "") == bare), None)


def read_named(name: str, root: str | None = None, *, download: bool = False) -> Source:
    """Read a named data set.

    Args:
        name: One of `NAMES`.
        root: Folder that torchvision keeps it in; None is `./data`.
        download: Whether it may be fetched when it is not there.

    Raises:
        DataError: The files are missing or broken, or the download did not work.
    """
    if name == "digits":
        return _digits()
    if name == "freyfaces":
        return _freyfaces(Path(root or DEFAULT_ROOT) / "freyfaces.npz")
    known = _KNOWN[name]
    place = Path(root or DEFAULT_ROOT)
    train, test = (_torchvision_part(name, place, part, download) for part in ("train", "test"))
    return Source(
        name=name,
        train=_part(train),
        test=_part(test),
        classes=tuple(getattr(train, "classes", None) or (str(i) for i in range(10))),
        mean=known.mean,
        std=known.std,
        crops=known.crops,
        mirrors=known.mirrors,
    )


def read_breast_cancer() -> tuple[torch.Tensor, torch.Tensor]:
    """Read the Wisconsin breast-cancer table that scikit-learn carries.

    Returns:
        30 features of 569 tumours `[569, 30]`, and their labels `[569]`, 1 for benign.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return torch.from_numpy(bunch.data), torch.from_numpy(bunch.target).long()


def _digits() -> Source:
    """Read the 1797 digits of 8 x 8 pixels, 17 grey levels, that scikit-learn carries."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float().div_(16)[:, None]
    return Source(
        name="digits",
        train=Part(HeldImages(pixels), torch.from_numpy(bunch.target).long()),
        test=None,
        classes=tuple(str(i) for i in range(10)),
        mean=_DIGITS_MEAN,
        std=_DIGITS_STD,
        crops=False,
        mirrors=False,
    )


def _freyfaces(path: Path) -> Source:
    """Read the 1965 grey frames of 28 x 20 pixels of one face, without labels."""
    if not path.is_file():
        raise DataError(
            "Loading the data 'freyfaces'", f"no file {str(path)!r}",
            "they are not fetched",
            "Store the images of frey_rawface.mat (Sam Roweis's page), uint8 [1965, 28, 20], "
            "there as 'images', or name their folder with --data-root.",
        )  # fmt: skip
    source = read_npz(path, labelled=False)
    source.name = "freyfaces"
    return source


def _torchvision_part(name: str, root: Path, part: str, download: bool) -> Any:  # noqa: ANN401
    known = _KNOWN[name]
    cls = getattr(torchvision().datasets, known.cls)
    which = {"split": part} if name == "svhn" else {"train": part == "train"}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision reports downloads there
            return cls(root=str(root), download=download, **which)
    except Exception as error:  # network, disk and format faults of six readers
        cause = str(error).splitlines()[0] if str(error) else ""
        raise DataError(
            f"Loading {name!r}",
            f"no usable files at {str(root / known.folder)!r}",
            f"torchvision says {type(error).__name__}: {cause}",
            "Check the network and the folder."
            if download
            else "Name the folder with --data-root, or fetch the files with --download.",
        ) from error


def _part(dataset: Any) -> Part:  # noqa: ANN401 - one of six torchvision classes
    pixels = torch.as_tensor(dataset.data)
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return Part(HeldImages(pixels.contiguous()), torch.as_tensor(labels).long())
