"""Effective sample sizes against their definition, and at the edges of floating point."""

import pytest
import torch

from bnnkit.bayes.accept.independent import weight_ess
from bnnkit.bayes.importance import effective_sample_size


def log_weights(*shape, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


def test_it_is_the_ratio_of_the_definition():
    log_w = log_weights(50, 3, 4)
    w = log_w.exp()
    torch.testing.assert_close(effective_sample_size(log_w), w.sum(0).square() / w.square().sum(0))
    torch.testing.assert_close(
        effective_sample_size(log_w[:, 0, 0]), torch.tensor(weight_ess(log_w[:, 0, 0])).double()
    )


@pytest.mark.parametrize("shift", [-1e5, 0.0, 1e5])
def test_the_scale_of_weights_does_not_matter(shift):
    log_w = log_weights(40, 5)
    torch.testing.assert_close(
        effective_sample_size(log_w + shift), effective_sample_size(log_w), rtol=1e-8, atol=0
    )


def test_equal_weights_count_fully_and_one_large_one_alone():
    assert float(effective_sample_size(torch.zeros(17))) == 17
    assert float(effective_sample_size(torch.tensor([0.0, -1e4, -1e4]))) == 1


def test_normal_log_weights_lose_by_their_variance():
    """Log-normal weights of variance v are worth exp(-v) of their number in the limit."""
    share = effective_sample_size(log_weights(400_000, scale=0.7)) / 400_000
    assert float(share) == pytest.approx(float(torch.tensor(-0.49).exp()), rel=0.01)


def test_what_is_no_number_weighs_nothing():
    inf, nan = torch.inf, torch.nan
    columns = torch.tensor(
        [[0.0, nan, 0.0, -inf, 2.0], [-inf] * 5, [nan] * 5, [inf, 1, 2, 0, inf]]
    )
    found = effective_sample_size(columns.T)
    assert found[1:].tolist() == [0, 0, 2]
    assert float(found[0]) == pytest.approx(
        float(effective_sample_size(torch.tensor([0, 0, 2.0])))
    )
    assert effective_sample_size(torch.empty(3, 0)).shape == (0,)
