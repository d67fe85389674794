"""Variational autoencoders: a fully connected one for MNIST, and a convolutional one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvVAE", "MnistVAE"]


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


class ConvVAE(nn.Module):
    """A Gaussian encoder and a Bernoulli decoder with two strided convolutions each.

    Args:
        latent: Width of the latent variable.
        width: Channels after the first convolution; the second has twice as many.
        in_channels: Channels of the image.
        size: Height and width of the image, multiples of 4; one number where they are equal.

    Raises:
        ValueError: A side is no multiple of 4.
    """

    def __init__(
        self,
        latent: int = 20,
        width: int = 32,
        in_channels: int = 1,
        size: int | tuple[int, int] = 28,
    ) -> None:
        super().__init__()
        height, breadth = (size, size) if isinstance(size, int) else size
        if height % 4 or breadth % 4:
            raise ValueError(f"a size of {height} x {breadth} is no multiple of 4")
        self.inner = (2 * width, height // 4, breadth // 4)
        features = 2 * width * (height // 4) * (breadth // 4)
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(features, 2 * latent),
        )
        self.project = nn.Linear(latent, features)
        self.decoder = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, in_channels, 4, 2, 1),
            nn.Sigmoid(),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [b, c, h, w] to mean and log variance of q(z | x), each [b, latent]."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Map latents [b, latent] to Bernoulli probabilities [b, c, h, w]."""
        probabilities: Tensor = self.decoder(self.project(z).unflatten(1, self.inner))
        return probabilities

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            x: Images [b, c, h, w] in [0, 1].
            noise: Standard normal numbers [b, latent]; None decodes the mean.

        Returns:
            Reconstruction [b, c, h, w], mean [b, latent], log variance [b, latent].
        """
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return self.decode(z), mean, log_variance
