"""The fully connected variational autoencoder for MNIST."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MnistVAE"]


class MnistVAE(nn.Module):
    """A Gaussian encoder and a Bernoulli decoder with one hidden layer each.

    Names are those of the widely used public example: `fc1` encodes, `fc21` gives the mean and
    `fc22` the log variance, `fc3` and `fc4` decode.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes (2014), appendix C.

    Args:
        latent: Width of the latent variable.
        hidden: Width of the hidden layers.
        in_features: Numbers in one input; images are flattened.
    """

    def __init__(self, latent: int = 20, hidden: int = 400, in_features: int = 784) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc21 = nn.Linear(hidden, latent)
        self.fc22 = nn.Linear(hidden, latent)
        self.fc3 = nn.Linear(latent, hidden)
        self.fc4 = nn.Linear(hidden, in_features)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs [b, ...] to mean and log variance of q(z | x), each [b, latent]."""
        h = F.relu(self.fc1(x.flatten(1)))
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        """Map latents [b, latent] to Bernoulli probabilities [b, in_features]."""
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            x: Inputs [b, ...] in [0, 1].
            noise: Standard normal numbers [b, latent]; None decodes the mean.

        Returns:
            Reconstruction [b, in_features], mean [b, latent], log variance [b, latent].
        """
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return self.decode(z), mean, log_variance
