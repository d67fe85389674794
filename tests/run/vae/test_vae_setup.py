"""An autoencoder and its data fit, with the same pixels at every limit, and all is recorded."""

import json

import numpy as np
import pytest
import torch

from bnnkit.bayes.likelihoods import log_likelihood
from bnnkit.errors import DataError, UsageError
from bnnkit.io.autoencoder_units import binarise_split
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.zoo import ZOO

DIGITS = DataSpec("digits")


def built(name, **args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ZOO[name](**args).eval()


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A file of the public layout for 8 x 8 digits."""
    path = tmp_path_factory.mktemp("bench") / "vae.pth"
    torch.save(built("vae-mnist", latent=3, hidden=9, in_features=64).state_dict(), path)
    return path


def bench_of(path, data=DIGITS, **options):
    return set_up_vae(VaeSpec(ModelSpec(str(path)), **options), data, seed=0, device="cpu")


def test_a_file_and_a_name_are_enough(example):
    bench = bench_of(example)
    assert bench.auto.shape == bench.data.input_shape == (1, 8, 8)
    x = bench.test()
    assert x.shape == (len(bench.data.test), 64)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    whole = torch.cat([images for images, _ in bench.data.test.batches(100)])
    assert torch.equal(x, binarise_split(whole).flatten(1))


def test_a_datum_has_the_same_pixels_at_every_limit(example):
    bench = bench_of(example)
    assert torch.equal(bench.test(20), bench.test()[:20])
    assert torch.equal(bench.train(5), bench.train()[:5])
    limited = bench_of(example, DataSpec("digits", limit=7))
    assert torch.equal(limited.test(), bench.test(7))
    assert torch.equal(limited.train(), bench.train(7))


def test_the_algorithms_see_the_same_model(example):
    bench = bench_of(example)
    x = bench.test(6)
    mean, _ = bench.model.encode(x)
    assert torch.equal(mean, bench.auto.encode(x)[0])
    z = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([log_likelihood("bernoulli", x, bench.auto.decode(zs)) for zs in z])
    torch.testing.assert_close(bench.model.log_likelihood(x, z), expected)
    torch.testing.assert_close(
        bench.model.log_joint(x, z) - expected, bench.auto.log_prior(z), atol=1e-4, rtol=1e-5
    )
    assert (bench.model.latent, bench.model.standard_prior) == (3, True)


def test_everything_is_recorded(example):
    sections = json.loads(json.dumps(bench_of(example).describe()))
    model, data = sections["model"], sections["data"]
    assert model["likelihood"] == "bernoulli"
    assert (model["latent"], model["variance_is"], model["is_bound"]) == (3, "logvar", True)
    assert model["arch"] == "bnnkit:vae-mnist"
    assert any("fc22" in note for note in model["notes"])
    assert (data["binarise"], data["binarise_seed"]) == ("bernoulli", 20151119)
    assert data["name"] == "digits"
    cut = bench_of(example, binarise="threshold").describe()
    assert (cut["data"]["binarise"], cut["data"]["binarise_seed"]) == ("threshold", None)


def test_grey_data_are_refused_unless_that_is_said(example):
    with pytest.raises(DataError, match="--allow-grey"):
        bench_of(example, binarise="none")
    assert not bench_of(example, allow_grey=True).auto.is_bound


def test_a_normalisation_means_nothing(example):
    with pytest.raises(UsageError, match="--input-range"):
        bench_of(example, DataSpec("digits", mean=(0.1,), std=(0.3,)))


def test_images_of_another_size_are_resized_to_a_square(tmp_path):
    torch.save(built("vae-mnist", in_features=144).state_dict(), tmp_path / "vae.pth")
    bench = bench_of(tmp_path / "vae.pth")
    assert bench.auto.shape == (1, 12, 12)
    assert any("resized" in note for note in bench.data.notes)


def test_the_shape_comes_from_the_data_where_nothing_states_it(tmp_path):
    source = np.random.Generator(np.random.PCG64(0))
    pixels = source.integers(0, 256, (60, 4, 6), dtype=np.uint8)
    np.savez(tmp_path / "faces.npz", images=pixels)
    torch.save(built("vae-mnist", in_features=24).state_dict(), tmp_path / "vae.pth")
    bench = bench_of(tmp_path / "vae.pth", DataSpec(str(tmp_path / "faces.npz")))
    assert bench.auto.shape == (1, 4, 6)
    assert (len(bench.train()), len(bench.test())) == (48, 12)


def test_floats_outside_the_unit_are_refused(tmp_path, example):
    source = np.random.Generator(np.random.PCG64(0))
    np.savez(tmp_path / "x.npz", images=source.normal(size=(40, 1, 8, 8)).astype(np.float32))
    with pytest.raises(DataError, match="not normalised"):
        bench_of(example, DataSpec(str(tmp_path / "x.npz")))


def test_a_folder_by_class_is_read_in_a_fixed_random_order(tmp_path, example):
    from PIL import Image

    for part in ("train", "test"):
        for label in (0, 1):
            folder = tmp_path / "images" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(20):
                pixels = np.full((8, 8), 255 * label, dtype=np.uint8)
                pixels[i % 8, i // 8] = 128
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    bench = bench_of(example, DataSpec(str(tmp_path / "images"), classes=("0", "1")))
    light = bench.test(10).mean(1)
    assert 0 < int((light > 0.5).sum()) < 10
    assert torch.equal(bench.test(10), bench.test()[:10])
    assert any("random order" in note for note in bench.describe()["data"]["notes"])


@pytest.mark.shared
def test_frey_faces_with_a_gaussian_decoder(tmp_path, shared):
    torch.save(built("vae-gaussian", latent=4).state_dict(), tmp_path / "vae.pth")
    bench = bench_of(tmp_path / "vae.pth", DataSpec(str(shared / "data" / "freyfaces.npz")))
    assert bench.auto.shape == (1, 28, 20)
    assert (bench.auto.likelihood, bench.auto.spec.binarise) == ("gaussian", "none")
    x = bench.test(8)
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    mean, log_sigma = bench.auto.decode(torch.zeros(1, 4))
    expected = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(x).sum(-1)
    found = bench.model.log_likelihood(x, torch.zeros(8, 4))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.shared
def test_mnist_pixels_are_those_of_the_fixed_seed(tmp_path, shared):
    torch.save(built("vae-mnist").state_dict(), tmp_path / "vae.pth")
    bench = bench_of(tmp_path / "vae.pth", DataSpec("mnist", root=str(shared / "data"), limit=50))
    raw = (shared / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    grey = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 784)[:50]
    uniform = np.random.Generator(np.random.PCG64(20151119)).random(grey.shape)
    assert torch.equal(bench.test(), torch.from_numpy((uniform < grey / 255.0).astype("float32")))
