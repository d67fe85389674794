"""The bound against torch's distributions, and against the evidence where that is known."""

import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from bnnkit.methods.elbo import bernoulli_elbo, binarise


def test_both_parts_are_those_of_the_distributions():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.bernoulli(torch.rand(7, 1, 4, 5, generator=generator), generator=generator)
    probabilities = torch.rand(7, 20, generator=generator)
    mean, log_var = (torch.randn(7, 3, generator=generator) for _ in range(2))
    found = bernoulli_elbo(pixels, probabilities, mean, log_var)
    likelihood = Bernoulli(probabilities).log_prob(pixels.flatten(1)).sum(1)
    kl = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(found.log_likelihood, likelihood)
    torch.testing.assert_close(found.kl, kl)
    torch.testing.assert_close(found.bound, likelihood - kl)


def test_the_bound_lies_below_the_evidence():
    """One pixel, p(x = 1 | z) = sigmoid(2 z): the evidence is a one-dimensional integral."""
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(z).exp()
    evidence = torch.trapezoid(density * torch.sigmoid(2 * z), z).log()  # of x = 1
    generator = torch.Generator().manual_seed(0)
    bounds = []
    for mean, sd in ((0.0, 1.0), (0.6, 0.8), (2.0, 0.5)):
        eps = torch.randn(200_000, 1, generator=generator)
        m = torch.full_like(eps, mean)
        log_var = torch.full_like(eps, 2 * float(torch.tensor(sd).log()))
        found = bernoulli_elbo(
            torch.ones_like(eps), torch.sigmoid(2 * (mean + sd * eps)), m, log_var
        )
        bounds.append(float(found.bound.mean()))
    assert max(bounds) <= float(evidence) + 3e-3
    assert max(bounds) == bounds[1]
    assert float(evidence) - bounds[1] < 0.01


def test_sure_pixels_stay_finite():
    found = bernoulli_elbo(torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 1),
                           torch.zeros(1, 1))  # fmt: skip
    assert torch.isfinite(found.log_likelihood).all()


def test_pixels_are_drawn_with_their_grey_values():
    grey = torch.tensor([[0.0, 0.25, 0.5, 1.0]]).expand(20_000, 4)
    drawn = binarise(grey, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), grey[0], atol=0.015, rtol=0)
    assert torch.equal(drawn, binarise(grey, torch.Generator().manual_seed(0)))
