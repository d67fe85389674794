"""Pixels: drawn from numpy's stream in the order of the data, cut, or mapped."""

import numpy as np
import pytest
import torch

from bnnkit.io.autoencoder_units import Units, binarise_split


def images(n=2500, seed=0):
    source = np.random.Generator(np.random.PCG64(seed))
    return source.integers(0, 256, (n, 1, 3, 4), dtype=np.uint8)


def test_pixels_are_those_of_numpys_stream():
    grey = images()
    uniform = np.random.Generator(np.random.PCG64(20151119)).random(grey.shape)
    expected = torch.from_numpy((uniform < grey / 255.0).astype(np.float32))
    assert torch.equal(binarise_split(torch.from_numpy(grey)), expected)
    # what load_data gives of the same bytes
    floats = torch.from_numpy(grey).float() * torch.tensor(1 / 255).float()
    assert torch.equal(binarise_split(floats), expected)
    assert not torch.equal(binarise_split(floats, seed=1), expected)


@pytest.mark.parametrize(("start", "count"), [(0, 7), (5, 20), (1024, 3), (1500, 1000)])
def test_a_datum_has_the_same_pixels_wherever_it_is_asked_for(start, count):
    grey = torch.from_numpy(images())
    part = binarise_split(grey[start : start + count], start=start)
    assert torch.equal(part, binarise_split(grey)[start : start + count])


def test_black_and_white_stay():
    ends = torch.tensor([[0.0, 1.0]]).expand(5000, 2)
    assert torch.equal(binarise_split(ends), ends)


def test_units_of_each_likelihood():
    x = torch.tensor([[[[0.0, 0.4], [0.6, 1.0]]]])
    grey = x.flatten(1)
    assert torch.equal(Units("bernoulli", "threshold").prepare(x), (grey > 0.5).float())
    assert torch.equal(Units("bernoulli", "bernoulli").prepare(x), binarise_split(grey))
    assert torch.equal(Units("continuous-bernoulli", "none").prepare(x), grey)
    levels = Units("categorical256", "none", reads=(-1.0, 1.0))
    assert levels.prepare(x).tolist() == [[0, 102, 153, 255]]
    torch.testing.assert_close(levels.to_encoder(levels.prepare(x)), 2 * grey - 1)
    torch.testing.assert_close(levels.to_images(levels.prepare(x)), grey)


def test_a_gaussian_decoder_may_have_units_of_its_own():
    x = torch.rand(3, 1, 2, 2)
    same = Units("gaussian", "none", reads=(-1.0, 1.0), gives=(-1.0, 1.0))
    torch.testing.assert_close(same.prepare(x), 2 * x.flatten(1) - 1)
    torch.testing.assert_close(same.to_encoder(same.prepare(x)), same.prepare(x))
    apart = Units("gaussian", "none", reads=(-1.0, 1.0), gives=(0.0, 1.0))
    assert torch.equal(apart.prepare(x), x.flatten(1))
    torch.testing.assert_close(apart.to_encoder(apart.prepare(x)), 2 * x.flatten(1) - 1)
    torch.testing.assert_close(same.to_images(same.prepare(x)), x.flatten(1))
