"""Data whose test part was split off: both parts as one, and inputs recognised in other files."""

import numpy as np
import pytest
import torch
from PIL import Image

from bnnkit.io.data import load_data
from bnnkit.io.datasets import source as store
from bnnkit.spec import DataSpec


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def written(tmp_path, name="data", **arrays):
    np.savez(tmp_path / f"{name}.npz", **arrays)
    return DataSpec(str(tmp_path / f"{name}.npz"))


@pytest.fixture
def folder(tmp_path):
    for number, image in enumerate(pixels(20, 6, 8, 3)):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return DataSpec(str(tmp_path / "pets"), mean=(0.5,), std=(0.5,))


def test_both_parts_are_all_of_the_data(tmp_path):
    x, y = pixels(50, 8, 8), np.arange(50) % 5
    data = load_data(written(tmp_path, x=x, y=y))
    assert data.divided
    assert (len(data.train), len(data.test), len(data.whole)) == (40, 10, 50)
    labels = {row.tobytes(): label for row, label in zip(x, y.tolist(), strict=True)}
    rows = data.whole.part.images.pixels.numpy()
    assert [labels[row.tobytes()] for row in rows] == data.whole.labels.tolist()
    assert len({row.tobytes() for row in rows}) == 50


def test_a_test_part_of_its_own_is_no_division(tmp_path):
    spec = written(
        tmp_path, x_train=pixels(20, 8, 8), y_train=np.arange(20) % 2,
        x_test=pixels(6, 8, 8), y_test=np.arange(6) % 2,
    )  # fmt: skip
    assert not load_data(spec).divided
    assert load_data(DataSpec("digits")).divided


def test_images_on_the_disk_are_joined_as_held_ones_are(folder, monkeypatch):
    held = load_data(folder).whole
    monkeypatch.setattr(store, "HELD_BYTES", 100)
    lazy = load_data(folder).whole
    assert len(lazy.part.images.paths) == 20
    (a, one), (b, two) = (next(split.batches(32)) for split in (held, lazy))
    assert torch.equal(a, b)
    assert torch.equal(one, two)
    assert lazy.digests() == held.digests()


def test_an_input_is_recognised_in_another_type_and_size_of_file(tmp_path, monkeypatch):
    x, y = pixels(30, 8, 8), np.arange(30) % 2
    rows = load_data(written(tmp_path, x=x, y=y)).whole.digests()
    assert len(set(rows)) == 30
    floats = written(tmp_path, "floats", x=(x[:, None] / 255).astype(np.float32), y=y)
    assert load_data(floats).whole.digests() == rows
    other = load_data(written(tmp_path, "other", x=pixels(30, 8, 8, seed=1), y=y))
    assert not set(rows) & set(other.whole.digests())
    spec = DataSpec(str(tmp_path / "data.npz"), input_shape=(1, 16, 16))
    larger = load_data(spec).whole.digests()
    monkeypatch.setattr(store, "HELD_BYTES", 30 * 64)
    late = load_data(spec).whole
    assert late.part.images.shape == (1, 8, 8)
    assert late.digests() == larger != rows


def test_features_that_are_no_bytes_are_told_apart(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32) * 1e-4
    rows = load_data(written(tmp_path, x=x, y=np.arange(200) % 2)).whole.digests()
    assert len(set(rows)) == 200
