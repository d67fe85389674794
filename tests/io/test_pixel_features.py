"""Principal components of pixels against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from bnnkit.errors import DataError, UsageError
from bnnkit.io.pixel_features import pixel_pca


@pytest.fixture(scope="module")
def images():
    grey = torch.from_numpy(load_digits().images)[:, None]
    return (grey * 255 / 16).round().to(torch.uint8)


@pytest.mark.parametrize("components", [1, 20, 50, 64])
def test_equals_scikit_learn(images, components):
    real, other = images[:1000], images[1000:]
    rows = [x.flatten(1).double().numpy() / 255 for x in (real, other)]
    reference = PCA(components, svd_solver="full").fit(rows[0])
    got = pixel_pca(real, components)(other)
    wanted = reference.transform(rows[1])
    mine = got.features.double().numpy()
    signs = np.sign((mine * wanted).sum(0))  # of a component is arbitrary
    signs[np.abs(wanted).max(0) < 1e-9] = 0  # corners that are black in every digit
    np.testing.assert_allclose(mine * signs, wanted * np.abs(signs), atol=2e-4)
    assert got.features.dtype == torch.float32
    assert (got.outputs, got.name) == (None, f"pixels, PCA-{components}")


def test_the_seed_decides_and_the_global_state_is_left_alone(images):
    state = torch.random.get_rng_state()
    one, two = (pixel_pca(images[:300], 10, seed=4)(images).features for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_make_no_difference(images):
    extractor = pixel_pca(images[:300], 10)
    one, all_ = (extractor(images[:50], batch_size=n).features for n in (1, 50))
    torch.testing.assert_close(one, all_, rtol=1e-5, atol=1e-5)


def test_refusals(images):
    with pytest.raises(UsageError, match="Use 9 or fewer"):
        pixel_pca(images[:10], 10)
    with pytest.raises(DataError, match="uint8"):
        pixel_pca(images.float())
    with pytest.raises(DataError, match=r"uint8 \[n, 1, 8, 8\]"):
        pixel_pca(images, 5)(images[:, :, :4])
