"""The bound that `train` climbs, against torch's distributions and against the evidence."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from bnnkit.run.generative.loop import Autoencoder
from bnnkit.run.precision import Precision
from bnnkit.spec.config import TrainConfig
from bnnkit.zoo.vae import MnistVAE


class Line(nn.Module):
    """One pixel, one latent: p(x = 1 | z) = sigmoid(2 z), q(z | x) = N(mean, sd²)."""

    def __init__(self, mean: float, sd: float) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.tensor([mean, 2 * float(torch.tensor(sd).log())]))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.q.expand(len(x), 2).split(1, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(2 * z)


def learner(model: nn.Module) -> Autoencoder:
    return Autoencoder(model, TrainConfig(), Precision("fp32", False), torch.device("cpu"))


def test_both_parts_are_those_of_the_distributions():
    torch.manual_seed(0)
    model = MnistVAE(latent=3, hidden=8, in_features=20)
    grey = torch.rand(7, 1, 4, 5)
    found, kl = learner(model).elbo_parts(grey, torch.Generator().manual_seed(1))
    source = torch.Generator().manual_seed(1)
    pixels = torch.bernoulli(grey, generator=source)
    probabilities, mean, log_variance = model(pixels, torch.randn(7, 3, generator=source))
    expected = Bernoulli(probabilities).log_prob(pixels.flatten(1)).sum(1)
    torch.testing.assert_close(found, expected)
    prior = Normal(0.0, 1.0)
    torch.testing.assert_close(
        kl, kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1)
    )


def test_the_bound_lies_below_the_evidence():
    """The evidence is a one-dimensional integral."""
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(z).exp()
    evidence = float(torch.trapezoid(density * torch.sigmoid(2 * z), z).log())  # of x = 1
    ones, bounds = torch.ones(200_000, 1, 1, 1), []
    for mean, sd in ((0.0, 1.0), (0.6, 0.8), (2.0, 0.5)):
        source = torch.Generator().manual_seed(0)
        likelihood, kl = learner(Line(mean, sd)).elbo_parts(ones, source)
        bounds.append(float((likelihood - kl).detach().mean()))
    assert max(bounds) <= evidence + 3e-3
    assert max(bounds) == bounds[1]
    assert evidence - bounds[1] < 0.01


def test_sure_pixels_stay_finite_and_a_nan_stays_one():
    class Sure(Line):
        def decode(self, z: Tensor) -> Tensor:
            return torch.tensor([[0.0], [float("nan")]])

    likelihood, _ = learner(Sure(0.0, 1.0)).elbo_parts(torch.ones(2, 1, 1, 1), torch.Generator())
    assert likelihood.isfinite().tolist() == [True, False]
