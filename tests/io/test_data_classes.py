"""Data restricted to some classes: what stays, how it is numbered, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bnnkit.errors import DataError, UsageError
from bnnkit.io.data import load_data, other_classes
from bnnkit.io.datasets import folder as folder_module
from bnnkit.io.datasets import source as store
from bnnkit.io.datasets.classes import class_indices
from bnnkit.run.evaluate import check_outputs
from bnnkit.spec import DataSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"
RAW = {"mean": (0.0,), "std": (1 / 255,)}  # a pixel is read as its own number

FACTORY = """
import torch

class Set(torch.utils.data.Dataset):
    classes = ["ant", "bee", "cow"]

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return torch.full((1, 2, 2), i, dtype=torch.uint8), i % 3

def sets():
    return Set(), Set()
"""


def _all(split):
    x, y = zip(*split.batches(64), strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.fixture
def npz(tmp_path):
    """40 images of the pixel 0, 1, 2 ...; the labels 0 to 4 in turn; the test part backwards."""
    x = np.arange(40, dtype=np.uint8).reshape(40, 1, 1) * np.ones((1, 2, 2), np.uint8)
    y = np.arange(40) % 5
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y[::-1])
    return str(tmp_path / "set.npz")


@pytest.fixture
def pets(tmp_path):
    """Class folders named by number, so that a name and a number can disagree."""
    for part, count in (("train", 4), ("test", 2)):
        for name in ("1", "10", "2", "cat"):
            place = tmp_path / "pets" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                level = 10 * ["1", "10", "2", "cat"].index(name) + i
                Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(place / f"{i}.png")
    return str(tmp_path / "pets")


def test_the_examples_of_the_classes_stay_in_order_and_are_renumbered(npz):
    data = load_data(DataSpec(npz, classes=("3", "0"), **RAW))
    x, y = _all(data.train)
    assert x[:, 0, 0, 0].round().int().tolist() == [i for i in range(40) if i % 5 in (0, 3)]
    assert y.tolist() == [0 if i % 5 == 3 else 1 for i in range(40) if i % 5 in (0, 3)]
    assert _all(data.test)[1].tolist() == y.tolist()[::-1]
    assert data.classes == ("3", "0")
    assert data.train.classes == data.test.classes == 2
    assert [n for n in data.notes if "only the classes 3, 0 (2 of 5)" in n]


def test_a_larger_model_is_refused_since_labels_were_renumbered(npz):
    check_outputs(10, load_data(DataSpec(npz)).test)  # counted labels may be some of the model's
    restricted = load_data(DataSpec(npz, classes=("1", "2"))).test
    check_outputs(2, restricted)
    with pytest.raises(DataError, match=r"10 outputs .* 2 classes"):
        check_outputs(10, restricted)


def test_a_name_goes_before_a_number(pets):
    data = load_data(DataSpec(pets, classes=("2", "0", "cat"), **RAW))
    x, y = _all(data.train)
    levels = x[:, 0, 0, 0].round().int().tolist()
    assert data.classes == ("2", "1", "cat")
    assert sorted(zip(y.tolist(), levels, strict=True)) == [
        (label, 10 * place + i) for label, place in ((0, 2), (1, 0), (2, 3)) for i in range(4)
    ]


def test_folders_read_batch_by_batch_are_restricted_alike(pets, monkeypatch):
    spec = DataSpec(pets, classes=("cat", "10"))
    held = load_data(spec)
    monkeypatch.setattr(store, "HELD_BYTES", 1)
    lazy = load_data(spec)
    assert lazy.fingerprint == held.fingerprint
    assert torch.equal(_all(lazy.test)[1], _all(held.test)[1])


def test_factories_are_restricted(tmp_path, monkeypatch):
    (tmp_path / "insects.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    data = load_data(DataSpec("insects.py:sets", classes=("cow", "ant"), **RAW))
    x, y = _all(data.train)
    assert x[:, 0, 0, 0].round().int().tolist() == [0, 2, 3, 5, 6, 8, 9, 11]
    assert y.tolist() == [1, 0] * 4


def test_the_split_does_not_depend_on_the_choice():
    whole = load_data(DataSpec("digits"))
    some = load_data(DataSpec("digits", classes=("8", "3")))
    x, y = _all(whole.test)
    chosen = (y == 8) | (y == 3)
    assert torch.equal(_all(some.test)[0], x[chosen])
    assert torch.equal(_all(some.test)[1], (y[chosen] == 3).long())


def test_the_limit_counts_examples_of_the_classes_and_the_fingerprint_follows():
    data = load_data(DataSpec("digits", classes=("8", "3"), limit=50))
    assert (len(data.train), len(data.test)) == (50, 50)
    prints = {
        load_data(DataSpec("digits", classes=c)).fingerprint
        for c in (None, ("8", "3"), ("3", "8"), ("3", "9"))
    }
    assert len(prints) == 4


@pytest.mark.shared
@pytest.mark.skipif(
    not (SHARED / "MNIST").is_dir(), reason="needs the MNIST files beside the checkout"
)
def test_names_and_numbers_of_a_known_set():
    spec = DataSpec("mnist", root=str(SHARED), classes=("7 - seven", "1"))
    data = load_data(spec)
    assert data.classes == ("7 - seven", "1 - one")
    assert (len(data.train), len(data.test)) == (6265 + 6742, 1028 + 1135)  # LeCun's counts
    assert len(load_data(other_classes(spec)).test) == 10_000 - 1028 - 1135


# ---- the classes that are left out


def test_other_classes_are_the_complement(npz):
    spec = DataSpec(npz, classes=("4", "1"), limit=9, split_seed=2)
    other = other_classes(spec)
    assert other.classes == ("0", "2", "3")
    assert (other.name, other.limit, other.split_seed) == (npz, 9, 2)
    assert other_classes(other).classes == ("1", "4")
    half = DataSpec("digits", classes=tuple("01234"))
    digits = [load_data(d).test for d in (half, other_classes(half))]
    assert sum(map(len, digits)) == len(load_data(DataSpec("digits")).test)


def test_other_classes_of_a_folder_decode_no_image(pets, monkeypatch):
    monkeypatch.setattr(folder_module, "decode_all", None)
    assert other_classes(DataSpec(pets, classes=("cat", "0"))).classes == ("10", "2")


def test_there_must_be_other_classes():
    with pytest.raises(UsageError, match=r"all classes are in use.*--classes"):
        other_classes(DataSpec("digits"))
    with pytest.raises(UsageError, match="1 of 10 left out"):
        other_classes(DataSpec("digits", classes=tuple("012345678")))
    with pytest.raises(DataError, match="no class 'x'"):
        other_classes(DataSpec("digits", classes=("x", "1")))


# ---- refusals


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        (("cat", "dgo"), r"no class 'dgo'; its classes are cat, dog, emu\. Did you mean 'dog'"),
        (("cat", "lion"), "cat, dog, emu. Use these names, or the numbers 0 to 2"),
        (("cat", "3"), "no class '3'"),
        (("cat", "-1"), "no class '-1'"),
    ],
)
def test_unknown_classes(classes, word):
    with pytest.raises(DataError, match=word):
        class_indices("pets", ("cat", "dog", "emu"), classes)


def test_a_thousand_classes_are_not_all_listed():
    with pytest.raises(DataError, match="n19 and 980 more") as caught:
        class_indices("big", [f"n{i}" for i in range(1000)], ("n1", "zebra"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        ((), "none"),
        (("3",), "only '3'; a classifier needs two"),
        (("3", "4", "3"), "'3' and '3'"),
        (("3", "03"), "'3' and '03'; both are the class '3'"),
    ],
)
def test_choices_that_lead_nowhere(classes, word):
    with pytest.raises(UsageError, match=word):
        load_data(DataSpec("digits", classes=classes))


def test_classes_without_examples(tmp_path):
    x = np.zeros((8, 2, 2), np.uint8)
    y = np.array([0, 1, 5, 5] * 2)
    np.savez(tmp_path / "gap.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    name = str(tmp_path / "gap.npz")
    with pytest.raises(DataError, match="training examples of 'gap'"):
        load_data(DataSpec(name, classes=("2", "3")))
    with pytest.raises(DataError, match="test examples of 'gap'"):
        load_data(DataSpec(name, classes=("2", "5")))
    assert load_data(DataSpec(name, classes=("5", "0"))).test.labels.tolist() == [1]
