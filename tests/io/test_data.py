"""Every way to name data, what comes out of it, and every refusal."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bnnkit.errors import DataError, UsageError
from bnnkit.io.data import load_data
from bnnkit.io.datasets import source as store
from bnnkit.io.datasets.augment import Augment
from bnnkit.io.datasets.split import resize
from bnnkit.io.datasets.subsets import stratified_rows
from bnnkit.io.vision import torchvision
from bnnkit.spec import DataSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_mnist = pytest.mark.skipif(
    not (SHARED / "MNIST").is_dir(), reason="needs the MNIST files beside the checkout"
)


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def _v2():
    torchvision()
    return importlib.import_module("torchvision.transforms.v2")


def _all(split, **options):
    x, y = zip(*split.batches(64, **options), strict=True)
    return torch.cat(x), torch.cat(y)


def _image(path, size=(6, 8), mode="RGB", seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 5), ("test", 2)):
        for c, name in enumerate(("cat", "dog", "emu")):
            for i in range(count):
                _image(tmp_path / "pets" / part / name / f"{i}.png", seed=100 * c + i)
    return tmp_path / "pets"


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return DataSpec(str(path))

    return write


def _bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# ---- the embedded digits, and what holds for every split


def test_digits_are_offline_split_by_class_and_normalised():
    data = load_data(DataSpec("digits"))
    assert (len(data.train), len(data.test), data.input_shape) == (1438, 359, (1, 8, 8))
    x, y = _all(data.train)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.std().item() == pytest.approx(1, abs=0.02)
    shares = [torch.bincount(s.labels, minlength=10) / len(s) for s in (data.train, data.test)]
    assert torch.allclose(*shares, atol=0.005)
    assert data.classes == tuple("0123456789")
    assert any("seed 0" in note for note in data.notes)


def test_the_split_follows_its_seed_and_the_fingerprint_the_split():
    a, b, c = (load_data(DataSpec("digits", split_seed=s)) for s in (0, 0, 1))
    assert torch.equal(_all(a.test)[0], _all(b.test)[0])
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert len(a.fingerprint) == 16


def test_limit_and_take_are_random_subsets_of_data_sorted_by_class(npz):
    y = np.repeat(np.arange(5), 100)
    spec = npz(x_train=_bytes(500, 4, 4), y_train=y, x_test=_bytes(500, 4, 4), y_test=y)
    data = load_data(DataSpec(spec.name, limit=60))
    assert (len(data.train), len(data.test)) == (60, 60)
    assert len(set(data.train.labels.tolist())) == 5
    full = load_data(spec).train
    few = full.take(60, _gen(3))
    assert len(set(few.labels.tolist())) == 5
    assert torch.equal(few.labels, full.take(60, _gen(3)).labels)
    assert not torch.equal(few.labels, full.take(60, _gen(4)).labels)
    assert len(full.take(10**6, _gen())) == 500


def test_batches_are_shuffled_whole_and_reproducible():
    split = load_data(DataSpec("digits")).train
    a, b = (_all(split, shuffle=True, generator=_gen(5)) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], split.labels)
    assert torch.equal(a[1].sort().values, split.labels.sort().values)
    sizes = [len(y) for _, y in split.batches(100)]
    assert sizes == [100] * 14 + [38]
    assert len(list(split.batches(100, drop_last=True))) == 14


def test_images_and_labels_stay_together_when_shuffled(npz):
    x = np.arange(40, dtype=np.uint8).reshape(40, 1, 1) * np.ones((1, 2, 2), np.uint8)
    spec = npz(x_train=x, y_train=np.arange(40), x_test=x, y_test=np.arange(40))
    data = load_data(DataSpec(spec.name, mean=(0.0,), std=(1 / 255,)))
    for seen, y in data.train.batches(7, shuffle=True, generator=_gen()):
        assert torch.allclose(seen[:, 0, 0, 0], y.float(), atol=1e-4)


def test_batches_refuse_nonsense():
    split = load_data(DataSpec("digits")).test
    with pytest.raises(UsageError, match="batch size of 0"):
        split.batches(0)
    with pytest.raises(UsageError, match="no generator"):
        split.batches(8, shuffle=True)


def test_stratified_rows_cover_all_once_and_keep_a_lone_example():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    stays, held = stratified_rows(labels, 0.2, _gen())
    assert torch.equal(torch.cat([stays, held]).sort().values, torch.arange(61))
    assert torch.bincount(labels[held], minlength=3).tolist() == [10, 2, 0]


# ---- augmentation and resizing


def test_each_augmented_image_is_a_crop_of_its_padded_self():
    x = torch.from_numpy(_bytes(40, 3, 12, 10))
    out = Augment(2, flip=True)(x, _gen(1))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    found = set()
    for before, after in zip(padded, out, strict=True):
        matches = [
            (i, j, mirrored)
            for i in range(5)
            for j in range(5)
            for mirrored, side in ((False, after), (True, after.flip(-1)))
            if torch.equal(before[:, i : i + 12, j : j + 10], side)
        ]
        assert matches
        found.update(matches)
    assert len(found) > 20


def test_augmentation_is_reproducible_and_only_on_request(npz):
    spec = npz(x=_bytes(50, 32, 32, 3), y=np.arange(50) % 2)
    train = load_data(spec).train
    a, b = (_all(train, augment=True, generator=_gen(2))[0] for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, _all(train)[0])
    plain = load_data(DataSpec(spec.name, augment="none")).train
    assert torch.equal(_all(plain, augment=True, generator=_gen())[0], _all(plain)[0])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((32, 32, 3), Augment(4, True)), ((16, 16, 3), None), ((32, 32), None)],
)
def test_auto_augments_colour_images_of_32_pixels(npz, shape, expected):
    data = load_data(npz(x=_bytes(20, *shape), y=np.arange(20) % 2))
    assert data.train.preprocess.augment == expected


def test_crop_flip_needs_images(npz):
    spec = npz(x=_bytes(20, 12), y=np.arange(20) % 2)
    with pytest.raises(DataError, match="12 features"):
        load_data(DataSpec(spec.name, augment="crop-flip"))
    with pytest.raises(UsageError, match="Did you mean 'crop-flip'"):
        load_data(DataSpec(spec.name, augment="crop_flip"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resize_is_torchvisions(dtype):
    v2 = _v2().functional
    x = torch.from_numpy(_bytes(3, 3, 28, 20)).to(dtype)
    for size in ((32, 32), (9, 14)):
        expected = v2.resize(x, list(size), antialias=True)
        assert (resize(x, size).float() - expected.float()).abs().max() <= 1


def test_normalisation_is_torchvisions(npz):
    x = _bytes(10, 8, 8, 3)
    spec = npz(x_train=x, y_train=np.arange(10), x_test=x, y_test=np.arange(10))
    mean, std = (0.48, 0.46, 0.4), (0.2, 0.3, 0.25)
    data = load_data(DataSpec(spec.name, mean=mean, std=std))
    v2 = _v2().functional
    scaled = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    expected = v2.normalize(scaled, list(mean), list(std))
    assert torch.allclose(_all(data.test)[0], expected, atol=1e-6)


# ---- fitting to the model


def test_one_channel_is_resized_and_repeated():
    data = load_data(DataSpec("digits", input_shape=(3, 16, 12)))
    x, _ = next(data.test.batches(4))
    assert x.shape == (4, 3, 16, 12)
    assert torch.equal(x[:, 0], x[:, 2])
    assert len(data.mean) == 3
    assert any("repeated" in n for n in data.notes)
    assert any("8x8 to 16x12" in n for n in data.notes)


def test_images_are_flattened_and_features_viewed(npz):
    flat = load_data(DataSpec("digits", input_shape=(64,)))
    image = load_data(DataSpec("digits"))
    assert flat.input_shape == (64,)
    assert torch.equal(_all(flat.test)[0], _all(image.test)[0].flatten(1))
    spec = npz(x=_bytes(20, 16), y=np.arange(20) % 2)
    viewed = load_data(DataSpec(spec.name, input_shape=(1, 4, 4)))
    assert torch.equal(_all(viewed.test)[0].flatten(1), _all(load_data(spec).test)[0])


def test_a_resize_that_would_not_fit_in_memory_is_done_by_batch(npz, monkeypatch):
    spec = npz(x=_bytes(40, 8, 8), y=np.arange(40) % 2)
    wanted = DataSpec(spec.name, input_shape=(1, 16, 16), mean=(0.5,), std=(0.5,))
    once = load_data(wanted)
    monkeypatch.setattr(store, "HELD_BYTES", 40 * 64)
    late = load_data(wanted)
    assert late.train.part.images.shape == (1, 8, 8)
    assert torch.equal(_all(once.train)[0], _all(late.train)[0])


@pytest.mark.parametrize("shape", [(4, 8, 8), (63,)])
def test_what_cannot_fit_names_both_sides(shape):
    with pytest.raises(DataError, match="1x8x8 and the model reads"):
        load_data(DataSpec("digits", input_shape=shape))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"limit": 0}, "0 examples"),
        ({"input_shape": (8, 8)}, "8,8"),
        ({"std": (0.0,)}, "positive"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"augment": "mixup"}, "'mixup'"),
    ],
)
def test_options_without_a_meaning(options, word):
    with pytest.raises(UsageError, match=word):
        load_data(DataSpec("digits", **options))


def test_mean_and_std_have_one_number_or_one_a_channel():
    data = load_data(DataSpec("digits", input_shape=(3, 8, 8), mean=(0.5,), std=(0.25,)))
    assert data.mean == (0.5,) * 3
    with pytest.raises(DataError, match="2 numbers for 1 channels"):
        load_data(DataSpec("digits", mean=(0.1, 0.2)))


# ---- named sets


@needs_mnist
@pytest.mark.shared
def test_mnist_has_its_usual_statistics():
    data = load_data(DataSpec("MNIST", root=str(SHARED), limit=4000, input_shape=(1, 32, 32)))
    assert data.name == "mnist"
    assert data.mean == (0.1307,)
    assert data.input_shape == (1, 32, 32)
    assert data.train.preprocess.augment is None
    x, _ = _all(load_data(DataSpec("mnist", root=str(SHARED), limit=4000)).train)
    assert x.std().item() == pytest.approx(1, abs=0.02)


class _Stored:
    """A torchvision data set as its readers hold it, without files."""

    def __init__(self, root, download, train=None, split=None):
        n = 30 if train or split == "train" else 10
        rows = np.arange(n, dtype=np.uint8)
        if split:
            self.data = np.tile(rows[:, None, None, None], (1, 3, 32, 32))
            self.labels = rows.astype(np.int64) % 10
        else:
            self.data = np.tile(rows[:, None, None, None], (1, 32, 32, 3))
            self.targets = (rows % 10).tolist()


@pytest.mark.parametrize(("name", "flip"), [("CIFAR10", True), ("SVHN", False)])
def test_colour_sets_of_torchvision(monkeypatch, name, flip):
    monkeypatch.setattr(torchvision().datasets, name, _Stored)
    data = load_data(DataSpec(name, mean=(0.0,), std=(1 / 255,)))
    assert (len(data.train), len(data.test)) == (30, 10)
    assert data.input_shape == (3, 32, 32)
    assert len(data.classes) == 10
    assert data.train.preprocess.augment == Augment(4, flip)
    x, y = _all(data.train)
    assert torch.allclose(x[:, 2, 5, 7], torch.arange(30.0), atol=1e-4)
    assert torch.equal(y, torch.arange(30) % 10)


@pytest.mark.parametrize("name", ["mnist", "cifar-10", "kmnist", "fashion_mnist", "cifar100"])
def test_missing_files_say_where_and_what_to_type(tmp_path, name, capsys):
    with pytest.raises(DataError, match=r"--data-root.*--download") as caught:
        load_data(DataSpec(name, root=str(tmp_path)))
    assert str(tmp_path) in caught.value.found
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "word"), [("cifar1O", "Did you mean 'cifar10'"), ("no/such/folder", "no such folder")]
)
def test_unknown_names(name, word):
    with pytest.raises(DataError, match=word):
        load_data(DataSpec(name))


# ---- image folders


def test_folder_pixels_labels_and_names(folder):
    data = load_data(DataSpec(str(folder), mean=(0.0,), std=(1 / 255,)))
    assert data.classes == ("cat", "dog", "emu")
    assert data.name == "pets"
    assert data.input_shape == (3, 6, 8)
    assert (len(data.train), len(data.test)) == (15, 6)
    x, y = _all(data.train)
    expected = np.asarray(Image.open(folder / "train" / "dog" / "3.png"))
    assert y[8] == 1
    assert torch.allclose(x[8].permute(1, 2, 0), torch.tensor(expected).float(), atol=1e-3)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folder_test_part_by_other_names(folder, name):
    (folder / "test").rename(folder / name)
    data = load_data(DataSpec(str(folder)))
    assert len(data.test) == 6
    assert any(repr(name) in note for note in data.notes)


def test_flat_folder_is_split_by_class(folder):
    data = load_data(DataSpec(str(folder / "train")))
    assert torch.bincount(data.test.labels).tolist() == [1, 1, 1]
    assert torch.bincount(data.train.labels).tolist() == [4, 4, 4]


def test_folder_measures_its_normalisation_on_the_training_part(folder):
    data = load_data(DataSpec(str(folder)))
    x, _ = _all(data.train)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)
    assert any("measured" in note for note in data.notes)


def test_folder_of_224_pixels_is_normalised_like_imagenet(folder):
    data = load_data(DataSpec(str(folder), input_shape=(3, 224, 224)))
    assert data.mean == (0.485, 0.456, 0.406)
    assert any("ImageNet" in note for note in data.notes)


def test_folder_resizes_as_torchvision_does(folder):
    data = load_data(DataSpec(str(folder), input_shape=(3, 5, 4), mean=(0.0,), std=(1 / 255,)))
    image = Image.open(folder / "test" / "cat" / "0.png")
    transforms = _v2()
    expected = transforms.functional.pil_to_tensor(transforms.Resize((5, 4))(image))
    assert torch.allclose(_all(data.test)[0][0], expected.float(), atol=1e-3)


def test_grey_palette_alpha_and_sixteen_bit_files(tmp_path):
    for i in range(2):
        _image(tmp_path / "a" / f"{i}.png", mode="L", seed=i)
        wide = np.full((6, 8), 256 * (40 + i), np.uint16)
        (tmp_path / "b").mkdir(exist_ok=True)
        Image.fromarray(wide).save(tmp_path / "b" / f"{i}.png")
    spec = DataSpec(str(tmp_path), mean=(0.0,), std=(1 / 255,))
    data = load_data(spec)
    assert data.input_shape == (1, 6, 8)
    x = torch.cat([_all(s)[0][s.labels == 1] for s in (data.train, data.test)])
    assert sorted(x[:, 0, 0, 0].round().tolist()) == [40, 41]
    _image(tmp_path / "c" / "0.gif", mode="P")
    _image(tmp_path / "c" / "1.png", mode="RGBA")
    assert load_data(spec).input_shape == (3, 6, 8)
    grey = DataSpec(str(tmp_path), input_shape=(1, 6, 8))
    assert load_data(grey).input_shape == (1, 6, 8)


def test_big_folders_are_decoded_by_batch_with_the_same_result(folder, monkeypatch):
    spec = DataSpec(str(folder), mean=(0.5,), std=(0.5,))
    held = load_data(spec)
    monkeypatch.setattr(store, "HELD_BYTES", 100)
    lazy = load_data(spec)
    assert lazy.train.part.images.paths[0].name == "0.png"
    assert lazy.fingerprint == held.fingerprint
    for options in ({}, {"shuffle": True, "generator": None}):
        seen = []
        for data in (held, lazy):
            if "generator" in options:
                options["generator"] = _gen(1)
            seen.append(torch.cat([x for x, _ in data.train.batches(4, **options)]))
        assert torch.equal(*seen)
    assert len(lazy.train.take(5, _gen())) == 5
    assert load_data(DataSpec(str(folder))).mean == pytest.approx((0.5,) * 3, abs=0.1)


@pytest.mark.parametrize("limit", [None, 100])
def test_a_second_size_names_the_file(folder, monkeypatch, limit):
    _image(folder / "train" / "emu" / "9.png", size=(7, 8))
    if limit:
        monkeypatch.setattr(store, "HELD_BYTES", limit)
    with pytest.raises(DataError, match=r"emu/9\.png.*7 x 8 pixels.*6 x 8.*--input-shape"):
        load_data(DataSpec(str(folder)))


@pytest.mark.parametrize("kind", ["cut", "text", "empty"])
def test_a_broken_image_is_named(folder, kind):
    path = folder / "train" / "dog" / "2.png"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}[kind])
    with pytest.raises(DataError, match=r"dog/2\.png"):
        load_data(DataSpec(str(folder)))


def test_files_that_are_no_images_are_skipped_and_counted(folder):
    (folder / "train" / "dog" / "notes.txt").write_text("x")
    (folder / "train" / ".cache").mkdir()
    data = load_data(DataSpec(str(folder)))
    assert len(data.train) == 15
    assert any(note.startswith("1 files") for note in data.notes)


def test_other_layouts_are_refused(folder, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="0 folders with images"):
        load_data(DataSpec(str(tmp_path / "none")))
    _image(folder / "test" / "fox" / "0.png")
    with pytest.raises(DataError, match="class 'fox'"):
        load_data(DataSpec(str(folder)))
    (folder / "train").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="without 'train'"):
        load_data(DataSpec(str(folder)))


# ---- npz


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 7), (1, 9, 7)),
        ((9, 7, 3), (3, 9, 7)),
        ((3, 9, 7), (3, 9, 7)),
        ((1, 9, 7), (1, 9, 7)),
        ((12,), (12,)),
    ],
)
def test_npz_orders_of_axes(npz, shape, expected):
    assert load_data(npz(x=_bytes(20, *shape), y=np.arange(20) % 2)).input_shape == expected


def test_npz_open_order_is_decided_by_the_model_or_noted(npz):
    spec = npz(x=_bytes(20, 3, 5, 3), y=np.arange(20) % 2)
    data = load_data(spec)
    assert data.input_shape == (3, 5, 3)
    assert any("[n, c, h, w]" in note for note in data.notes)
    other = load_data(DataSpec(spec.name, input_shape=(3, 3, 5)))
    assert other.input_shape == (3, 3, 5)


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_train", "y_train")])
def test_npz_keys(npz, names):
    data = load_data(npz(**{names[0]: _bytes(20, 4, 4), names[1]: np.arange(20) % 2}))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert not data.classes_known


def test_npz_floats_of_whole_bytes_are_bytes_and_others_stay(npz):
    x, y = _bytes(40, 4, 4), np.arange(40) % 2
    as_bytes, as_floats = (_all(load_data(npz(x=v, y=y)).train)[0] for v in (x, x.astype(float)))
    assert torch.equal(as_bytes, as_floats)
    unit = load_data(npz(x=x / 255, y=y))
    assert torch.allclose(_all(unit.train)[0], as_bytes, atol=1e-4)
    given = np.random.default_rng(0).normal(size=(40, 4, 4))
    data = load_data(npz(x=given, y=y))
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    assert any("as they are" in note for note in data.notes)
    assert _all(data.train)[0].abs().max() == pytest.approx(np.abs(given).max(), rel=0.5)


def test_npz_labels_may_be_words(npz):
    words = np.array(["b", "a", "c", "a"] * 5)
    data = load_data(npz(x_train=_bytes(20, 4), y_train=words, x_test=_bytes(20, 4), y_test=words))
    assert data.classes == ("a", "b", "c")
    assert data.test.labels[:4].tolist() == [1, 0, 2, 0]
    assert data.classes_known


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"images": _bytes(5, 4)}, "the keys images"),
        ({"x": _bytes(5, 4), "y": np.arange(4)}, "5 inputs and 4 labels"),
        ({"x": _bytes(5, 4), "y": np.full(5, -1)}, "the label -1"),
        ({"x": _bytes(5, 4), "y": np.full(5, 0.5)}, "the label 0.5"),
        ({"x": _bytes(5, 4), "y": np.zeros((5, 3))}, r"\[5, 3\]"),
        ({"x": np.full((5, 4), np.nan), "y": np.arange(5)}, "not finite"),
        ({"x": _bytes(5, 2, 2, 2, 2), "y": np.arange(5)}, r"\[5, 2, 2, 2, 2\]"),
        ({"x": np.array(["a"] * 5), "y": np.arange(5)}, "must be numbers"),
        ({"x": np.array([{}] * 5), "y": np.arange(5)}, "plain arrays"),
        ({"x": _bytes(5, 4), "y": np.arange(5)}, "nothing can be held out"),
        ({"x": _bytes(0, 4), "y": np.arange(0)}, "no inputs"),
    ],
)
def test_npz_refusals(npz, arrays, word):
    with pytest.raises(DataError, match=word):
        load_data(npz(**arrays))


def test_npz_parts_must_agree(npz):
    y = np.arange(5)
    with pytest.raises(DataError, match="one shape and type"):
        load_data(npz(x_train=_bytes(5, 4), y_train=y, x_test=_bytes(5, 6), y_test=y))


def test_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match="plain arrays"):
        load_data(DataSpec(str(tmp_path / "a.npz")))
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"not \.npz"):
        load_data(DataSpec(str(tmp_path / "a.csv")))


# ---- factories

FACTORY = """
import torch
from torch.utils.data import TensorDataset

x = torch.arange(48.0).view(12, 1, 2, 2) - 20
y = torch.arange(12) % 3

def pairs():
    return (x, y), (x[:3], y[:3])

def sets():
    return TensorDataset(x, y), TensorDataset(x[:3], y[:3])

def raw():
    return (x.byte(), y), (x.byte(), y)

def one():
    return x, y

def words():
    return "train", "test"

def fails():
    raise KeyError("no disk")
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "owner.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return "owner.py"


@pytest.mark.parametrize("name", ["pairs", "sets"])
def test_factory_floats_are_taken_as_they_are(factory, name):
    data = load_data(DataSpec(f"{factory}:{name}"))
    x, y = _all(data.train)
    assert torch.equal(x.flatten(), torch.arange(48.0) - 20)
    assert y.tolist() == [0, 1, 2] * 4
    assert data.mean == (0.0,)
    assert len(data.test) == 3


def test_factory_of_a_module_in_the_working_folder(factory):
    data = load_data(DataSpec("owner:raw"))
    assert data.name == "raw"
    assert any("measured" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("owner.py:pair", "Did you mean 'pairs'"),
        ("gone.py:pairs", "no file 'gone.py'"),
        ("no_such_module:pairs", "ModuleNotFoundError"),
        ("owner.py:one", "two parts"),
        ("owner.py:fails", "KeyError: 'no disk'"),
        ("owner.py:words", "example 0"),
    ],
)
def test_factory_refusals(factory, name, word):
    with pytest.raises(DataError, match=word):
        load_data(DataSpec(name))
