"""The kernel distance against a double loop and torchmetrics on the same subsets."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch import nn

from bnnkit.errors import DataError
from bnnkit.io.vision import torchvision
from bnnkit.metrics.generative import kernel_distance


@pytest.fixture(scope="module")
def reference():
    torchvision()  # torchmetrics imports it, also where its compiled operators are missing
    return importlib.import_module("torchmetrics.image.kid").KernelInceptionDistance


def draw(n, d, seed, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) + shift


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def brute(x, y):
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    m = len(x)
    pairs = list(itertools.permutations(range(m), 2))
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i, j in pairs) / (m * (m - 1))
    return within - 2 * sum(kernel(a, b) for a in x for b in y) / m**2


@pytest.mark.parametrize("m", [2, 7, 20])
def test_equals_the_double_loop(m):
    x, y = draw(m, 5, 0), draw(m, 5, 1, 0.3)
    mean, sd = kernel_distance(x, y, seeded(), subsets=3)
    assert mean == pytest.approx(brute(x, y), rel=1e-10)
    assert sd == pytest.approx(0, abs=1e-12)  # each subset is the whole set


@pytest.mark.filterwarnings("ignore:Metric")
def test_equals_torchmetrics_on_the_same_subsets(reference):
    x, y = draw(300, 12, 0), draw(200, 12, 1, 0.2)
    metric = reference(feature=nn.Identity(), subsets=20, subset_size=60)
    metric.update(x, real=True)
    metric.update(y, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        mean, sd = metric.compute()
    got = kernel_distance(x, y, seeded(5), subsets=20, subset_size=60)
    assert got == pytest.approx((float(mean), float(sd)), rel=1e-9)


def test_it_is_unbiased():
    """The mean over independent pairs of sets of one distribution is 0 within three errors."""
    values = torch.tensor(
        [
            kernel_distance(draw(30, 4, s), draw(30, 4, 1000 + s), seeded(), 1)[0]
            for s in range(400)
        ]
    )
    assert values.min() < 0
    assert abs(values.mean()) < 3 * values.std() / 20


def test_a_small_set_bounds_the_subsets():
    x, y = draw(50, 3, 0), draw(10, 3, 1)
    mean, sd = kernel_distance(x, y, seeded(), subsets=4, subset_size=1000)
    assert torch.tensor([mean, sd]).isfinite().all()
    assert sd > 0


def test_refusals():
    with pytest.raises(DataError, match="same extractor"):
        kernel_distance(draw(5, 3, 0), draw(5, 2, 0), seeded())
    with pytest.raises(DataError, match="subsets of 1 rows"):
        kernel_distance(draw(5, 3, 0), draw(5, 3, 0), seeded(), subset_size=1)
    with pytest.raises(DataError, match="not a finite number"):
        kernel_distance(draw(5, 3, 0) / 0, draw(5, 3, 0), seeded())
