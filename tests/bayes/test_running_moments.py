"""Running moments against numpy, for any cut of the vectors into blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.bayes.running_moments import RunningMoments


def moments_of(blocks, size):
    moments = RunningMoments.empty(size)
    for block in blocks:
        moments = moments.update(block)
    return moments


def vectors(seed, n, d, centre=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return centre + scale * torch.randn(n, d, generator=g, dtype=torch.float64)


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(lambda s: sum(s) >= 2),
    d=st.integers(1, 5),
    centre=st.sampled_from([0.0, -3.0, 1e4]),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_any_blocking_gives_the_moments_of_numpy(seed, sizes, d, centre, scale):
    x = vectors(seed, sum(sizes), d, centre, scale)
    moments = moments_of(torch.split(x, sizes), d)
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.mean, np.mean(x.numpy(), 0), rtol=1e-12, atol=1e-12 * scale)
    # a variance near a large mean cannot be known better than the numbers themselves
    noise = 1e-14 * max(abs(centre), scale)
    np.testing.assert_allclose(
        moments.deviation(), np.std(x.numpy(), 0, ddof=1), rtol=1e-9, atol=noise
    )


@pytest.mark.parametrize("block", [1, 7, 400])
def test_a_large_mean_does_not_swallow_the_variance(block):
    x = vectors(0, 400, 3, centre=1e8)
    moments = moments_of(torch.split(x, block), 3)
    # of the numbers 1e-8 is left, so of the deviation at least seven digits
    np.testing.assert_allclose(moments.deviation(), np.std(x.numpy(), 0, ddof=1), rtol=1e-7)
    np.testing.assert_allclose(moments.mean, np.mean(x.numpy(), 0), rtol=1e-14)


def test_float32_vectors_are_summed_in_float64():
    x = vectors(1, 300, 2, centre=100.0).float()
    moments = moments_of(torch.split(x, 1), 2)
    assert moments.mean.dtype == moments.squares.dtype == torch.float64
    np.testing.assert_allclose(moments.mean, np.mean(x.double().numpy(), 0), rtol=1e-13)
    np.testing.assert_allclose(
        moments.deviation(), np.std(x.double().numpy(), 0, ddof=1), rtol=1e-12
    )


def test_an_update_leaves_the_moments_before_as_they_were():
    first = RunningMoments.empty(2).update(vectors(0, 4, 2))
    mean, squares = first.mean.clone(), first.squares.clone()
    first.update(vectors(1, 4, 2))
    assert first.count == 4
    assert first.mean.equal(mean)
    assert first.squares.equal(squares)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_vectors_have_no_deviation(count):
    moments = RunningMoments.empty(3).update(vectors(0, count, 3))
    assert moments.count == count
    assert moments.deviation().tolist() == [0.0, 0.0, 0.0]


def test_a_constant_has_no_deviation_and_never_a_negative_one():
    moments = moments_of([torch.full((1, 1), 0.1)] * 200, 1)
    assert 0 <= float(moments.deviation()) < 1e-15


def test_no_gradient_is_kept():
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert not RunningMoments.empty(2).update(x).mean.requires_grad


@pytest.mark.parametrize("shape", [(4, 3), (2,), (1, 2, 2)])
def test_vectors_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="vectors of shape"):
        RunningMoments.empty(2).update(torch.zeros(shape))
