"""Data read without their classes: flat folders, arrays without labels, and named sets alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bnnkit.errors import DataError, UsageError
from bnnkit.io.data import load_data
from bnnkit.spec import DataSpec


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path)


def values(split):
    """Return the grey value of each image, in [0, 255]."""
    return sorted((x[:, 0, 0, 0] * 255).round().int().tolist() for x, _ in split.batches(1000))[0]


def unlabelled(name, **options):
    return DataSpec(str(name), mean=(0.0,), std=(1.0,), labelled=False, **options)


def test_a_flat_folder_is_split_at_random_and_has_one_class(tmp_path):
    for i in range(20):
        picture(tmp_path / "faces" / f"{i:02d}.png", 10 * i)
    (tmp_path / "faces" / "readme.txt").write_text("no image")
    data = load_data(unlabelled(tmp_path / "faces"))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert sorted(values(data.train) + values(data.test)) == [10 * i for i in range(20)]
    assert data.train.labels.tolist() == [0] * 16
    assert data.classes == ("unlabelled",)
    assert data.input_shape == (3, 4, 5)
    assert any("20% held out" in note for note in data.notes)
    assert any("1 files under 'faces'" in note for note in data.notes)
    other = load_data(replace(unlabelled(tmp_path / "faces"), split_seed=1))
    assert values(other.test) != values(data.test)
    with pytest.raises(DataError, match="a classifier needs two classes"):
        load_data(DataSpec(str(tmp_path / "faces")))


def test_parts_and_class_folders_are_read_at_any_depth(tmp_path):
    for i in range(3):
        picture(tmp_path / "d" / "train" / "cat" / f"{i}.png", i)
        picture(tmp_path / "d" / "train" / f"{i}.png", 100 + i)
    picture(tmp_path / "d" / "test" / "9.png", 200)
    data = load_data(unlabelled(tmp_path / "d"))
    assert sorted(values(data.train)) == [0, 1, 2, 100, 101, 102]
    assert values(data.test) == [200]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="1 files, none of them an image"):
        load_data(unlabelled(tmp_path))


@pytest.mark.parametrize("key", ["images", "x", "frames", "arr_0"])
def test_a_single_array_is_the_inputs(tmp_path, key):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 7, 5), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", **{key: pixels})
    data = load_data(unlabelled(tmp_path / "d.npz"))
    assert data.input_shape == (1, 7, 5)
    assert (len(data.train), len(data.test)) == (24, 6)
    read = torch.cat([x for part in (data.train, data.test) for x, _ in part.batches(64)])
    wanted = torch.from_numpy(pixels).float()[:, None] / 255
    key = read.flatten(1)[:, :9].double().sum(1).argsort()
    torch.testing.assert_close(
        read[key], wanted[wanted.flatten(1)[:, :9].double().sum(1).argsort()]
    )
    with pytest.raises(DataError, match="inputs and labels are needed"):
        load_data(DataSpec(str(tmp_path / "d.npz")))


def test_the_inputs_among_several_arrays(tmp_path):
    x = np.zeros((10, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(10), names=np.arange(10))
    assert load_data(unlabelled(tmp_path / "a.npz")).train.labels.max() == 0
    np.savez(tmp_path / "b.npz", x_train=x, x_test=x[:3])
    data = load_data(unlabelled(tmp_path / "b.npz"))
    assert (len(data.train), len(data.test)) == (10, 3)
    np.savez(tmp_path / "c.npz", a=x, b=x)
    with pytest.raises(DataError, match="the keys a, b; it is open which of them"):
        load_data(unlabelled(tmp_path / "c.npz"))


def test_labels_of_a_known_name_are_forgotten():
    data = load_data(DataSpec("digits", labelled=False))
    assert set(data.train.labels.tolist()) == {0}
    assert data.train.classes == 1
    assert len(data.train) + len(data.test) == 1797
    with pytest.raises(UsageError, match="read without their classes"):
        load_data(DataSpec("digits", labelled=False, classes=("0", "1")))


def test_frey_faces(shared):
    data = load_data(unlabelled(shared / "data" / "freyfaces.npz"))
    assert data.input_shape == (1, 28, 20)
    assert len(data.train) + len(data.test) == 1965
