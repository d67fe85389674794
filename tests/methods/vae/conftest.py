"""What tests of autoencoders share: a model with everything known, x = W z + b + s e."""

import math

import pytest
import torch

from bnnkit.methods.vae.latent_model import LatentModel

LATENT, WIDTH = 4, 7


class LinearGaussian:
    """Its model, data, posterior and evidence, in float64 or float32."""

    def __init__(self, n=5, seed=0, dtype=torch.float64, log_sigma=-0.7):
        g = torch.Generator().manual_seed(seed)
        kind = {"generator": g, "dtype": dtype}
        self.weight = torch.randn(LATENT, WIDTH, **kind)
        self.shift = torch.randn(WIDTH, **kind)
        self.log_sigma = torch.tensor([log_sigma], dtype=dtype).expand(1, WIDTH)
        self.x = torch.randn(n, WIDTH, **kind) * 2
        self.rough = 0.5 * torch.randn(n, LATENT, **kind), 0.3 * torch.randn(n, LATENT, **kind)
        rows = {tuple(row.tolist()): i for i, row in enumerate(self.x)}

        def encode(x):
            index = [rows[tuple(row.tolist())] for row in x]
            return self.rough[0][index], self.rough[1][index]

        def decode(z):
            return z @ self.weight + self.shift, self.log_sigma

        self.model = LatentModel(encode, decode, "gaussian", LATENT)
        self.noise = math.exp(2 * log_sigma)
        identity = torch.eye(LATENT, dtype=dtype)
        self.precision = identity + self.weight @ self.weight.T / self.noise
        centred = (self.x - self.shift) @ self.weight.T / self.noise
        self.mean = torch.linalg.solve(self.precision, centred.T).T

    def evidence(self):
        """Return log p(x) `[n]`."""
        spread = self.weight.T @ self.weight + self.noise * torch.eye(WIDTH, dtype=self.x.dtype)
        return torch.distributions.MultivariateNormal(self.shift, spread).log_prob(self.x)

    def best_diagonal(self):
        """Return the largest bound of N(m, diag) `[n]`: log p less the KL of the best of them.

        The best has the posterior's mean and variances 1 / P_ii, at a KL of
        half of sum log P_ii - log det P.
        """
        loss = self.precision.diagonal().log().sum() - torch.logdet(self.precision)
        return self.evidence() - 0.5 * loss


@pytest.fixture
def linear_gaussian():
    """The class of linear-Gaussian models."""
    return LinearGaussian
