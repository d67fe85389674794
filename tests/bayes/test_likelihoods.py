"""Likelihoods against torch's distributions and numerical integration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, ContinuousBernoulli, Normal

from bnnkit.bayes.likelihoods import LIKELIHOODS, likelihood_mean, log_likelihood


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=source, dtype=torch.float64)


def test_bernoulli_is_torchs() -> None:
    logits = draw(3, 4, 5, scale=4)
    x = (draw(4, 5, seed=1) > 0).double()
    expected = Bernoulli(logits=logits).log_prob(x.expand(3, 4, 5)).sum(-1)
    torch.testing.assert_close(log_likelihood("bernoulli", x, [logits]), expected)


def test_gaussian_with_a_shared_scale_is_torchs() -> None:
    mean, log_sigma, x = draw(3, 4, 5), torch.tensor(0.3, dtype=torch.float64), draw(4, 5, seed=2)
    expected = Normal(mean, log_sigma.exp()).log_prob(x.expand(3, 4, 5)).sum(-1)
    torch.testing.assert_close(log_likelihood("gaussian", x, [mean, log_sigma]), expected)


def test_categorical_is_torchs() -> None:
    logits = draw(2, 3, 4, 256)
    x = torch.randint(256, (3, 4), generator=torch.Generator().manual_seed(0))
    expected = Categorical(logits=logits).log_prob(x.expand(2, 3, 4)).sum(-1)
    torch.testing.assert_close(log_likelihood("categorical256", x.double(), [logits]), expected)


def test_continuous_bernoulli_is_torchs_and_integrates_to_one() -> None:
    logits = draw(3, 4, 5, scale=3)
    x = draw(4, 5, seed=3).sigmoid()
    expected = ContinuousBernoulli(logits=logits).log_prob(x.expand(3, 4, 5)).sum(-1)
    found = log_likelihood("continuous-bernoulli", x, [logits])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None]
    for logit in (0.0, 1e-3, -9.99e-3, 1.01e-2, 5.0, -40.0):
        values = log_likelihood(
            "continuous-bernoulli", grid, [torch.full((20001, 1), logit, dtype=torch.float64)]
        )
        assert torch.trapezoid(values.exp(), grid[:, 0]).item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("logit", [0.0, 1e-9, 0.5])
def test_its_gradient_is_finite_at_zero(logit: float) -> None:
    logits = torch.tensor([[logit]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.7]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda ls: log_likelihood("continuous-bernoulli", x, [ls]), (logits,)
    )


def test_far_logits_stay_finite() -> None:
    for kind in LIKELIHOODS[:3:2]:
        values = log_likelihood(kind, torch.ones(1, 2), [torch.tensor([[400.0, -400.0]])])
        assert values.isfinite().all()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        log_likelihood("poisson", torch.ones(1, 1), [torch.ones(1, 1)])


def test_means_are_those_of_torchs_distributions() -> None:
    logits = torch.tensor([-8.0, -0.5, -9e-3, 0.0, 1.1e-2, 2.0], dtype=torch.float64)
    torch.testing.assert_close(likelihood_mean("bernoulli", [logits]), logits.sigmoid())
    torch.testing.assert_close(
        likelihood_mean("continuous-bernoulli", [logits]),
        ContinuousBernoulli(logits=logits).mean, rtol=1e-6, atol=1e-7,
    )  # fmt: skip
    torch.testing.assert_close(likelihood_mean("gaussian", [logits, logits]), logits)
    table = draw(2, 3, 256)
    expected = (table.softmax(-1) * torch.arange(256.0, dtype=torch.float64)).sum(-1)
    torch.testing.assert_close(likelihood_mean("categorical256", [table]), expected)
