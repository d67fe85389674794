"""The Fréchet distance against torchmetrics, scipy and the closed form of Gaussians."""

from __future__ import annotations

import importlib

import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from bnnkit.errors import DataError
from bnnkit.io.vision import torchvision
from bnnkit.metrics.generative import Moments, frechet_distance, moments


@pytest.fixture(scope="module")
def reference():
    torchvision()  # torchmetrics imports it, also where its compiled operators are missing
    return importlib.import_module("torchmetrics.image.fid").FrechetInceptionDistance


class Given(nn.Module):
    """Features that are their own images."""

    def __init__(self, d):
        super().__init__()
        self.num_features = d

    def forward(self, x):
        return x


def draw(n, d, seed, *, shift=0.0, rank=None):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, rank or d, generator=g, dtype=torch.float64) @ mix + shift


def gaussian(mean, covariance, count=1000):
    return Moments(torch.tensor(mean).double(), torch.tensor(covariance).double(), count)


@pytest.mark.parametrize(("n", "m", "d"), [(500, 500, 8), (400, 90, 20), (2000, 3000, 64)])
def test_equals_torchmetrics(reference, n, m, d):
    a, b = draw(n, d, 0), draw(m, d, 1, shift=0.5)
    metric = reference(feature=Given(d)).set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    ours = frechet_distance(moments(a), moments(b))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_moments_are_the_unbiased_ones():
    x = draw(50, 4, 0)
    got = moments(x.float())
    assert got.count == 50
    assert got.covariance.dtype == torch.float64
    torch.testing.assert_close(got.covariance, x.float().double().T.cov())


def test_diagonal_gaussians_have_a_closed_form():
    a = gaussian([0.0, 1.0, 2.0], torch.diag(torch.tensor([1.0, 4.0, 9.0])).tolist())
    b = gaussian([3.0, 1.0, 0.0], torch.diag(torch.tensor([4.0, 4.0, 1.0])).tolist())
    # |3, 0, -2|^2 + (1 - 2)^2 + (2 - 2)^2 + (3 - 1)^2
    assert frechet_distance(a, b) == pytest.approx(13 + 1 + 0 + 4, rel=1e-12)


def test_a_point_mass_leaves_mean_and_trace():
    a = gaussian([0.0, 0.0], [[2.0, 1.0], [1.0, 3.0]])
    b = gaussian([1.0, 2.0], [[0.0, 0.0], [0.0, 0.0]])
    assert frechet_distance(a, b) == pytest.approx(5 + 5, rel=1e-12)


@pytest.mark.parametrize("rank", [None, 3])
def test_a_set_is_at_no_distance_from_itself(rank):
    a = moments(draw(300, 30, 0, rank=rank))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_singular_covariances():
    """Both of rank 5 in 40 features: the matrix root is taken inside the joint span."""
    a, b = draw(300, 40, 0, rank=5), draw(300, 40, 1, rank=5)
    one, two = moments(a), moments(b)
    basis = torch.linalg.qr(torch.cat([a, b]).T)[0][:, :40]
    factors = [torch.linalg.svd(x - x.mean(0), full_matrices=False) for x in (a, b)]
    # tr (S_a S_b)^1/2 = |X_a X_b^T|_* / (n - 1) of the centred rows, with no covariance taken
    low = [(u[:, :5] * s[:5]) @ v[:5] @ basis for u, s, v in factors]
    common = torch.linalg.matrix_norm(low[0] @ low[1].T, "nuc") / 299
    wanted = (one.mean - two.mean).square().sum() - 2 * common
    wanted = wanted + one.covariance.trace() + two.covariance.trace()
    assert frechet_distance(one, two) == pytest.approx(float(wanted), rel=1e-9)


def test_fewer_rows_than_features():
    a, b = moments(draw(12, 30, 0)), moments(draw(15, 30, 1))
    root = torch.from_numpy(sqrtm((a.covariance @ b.covariance).numpy()).real)
    wanted = (a.mean - b.mean).square().sum()
    wanted = wanted + (a.covariance + b.covariance - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(float(wanted), rel=1e-4)


def test_it_is_symmetric():
    a, b = moments(draw(100, 6, 0)), moments(draw(80, 6, 1, shift=1.0))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_refusals():
    with pytest.raises(DataError, match="at least 2 rows"):
        moments(torch.zeros(1, 3))
    with pytest.raises(DataError, match="not a finite number in 1 of 4 rows"):
        moments(torch.tensor([[0.0], [1.0], [torch.nan], [2.0]]))
    with pytest.raises(DataError, match="same extractor"):
        frechet_distance(moments(draw(9, 3, 0)), moments(draw(9, 4, 0)))
