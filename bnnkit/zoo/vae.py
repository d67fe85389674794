"""Variational autoencoders: fully connected ones with either decoder, and a convolutional one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvVAE", "GaussianVAE", "MnistVAE"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return a nonlinearity by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _latents(mean: Tensor, log_variance: Tensor, noise: Tensor | None) -> Tensor:
    """Return a draw of N(mean, exp log_variance) from standard normal noise, or the mean."""
    return mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise


class _BernoulliVAE(nn.Module, ABC):
    """What autoencoders with a Bernoulli decoder have in common."""

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs [b, ...] to mean and log variance of q(z | x), each [b, latent]."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Map latents [b, latent] to Bernoulli probabilities [b, ...]."""

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            x: Inputs [b, ...] in [0, 1].
            noise: Standard normal numbers [b, latent]; None decodes the mean.

        Returns:
            Reconstruction [b, ...], mean [b, latent], log variance [b, latent].
        """
        mean, log_variance = self.encode(x)
        return self.decode(_latents(mean, log_variance, noise)), mean, log_variance


class MnistVAE(_BernoulliVAE):
    """A Gaussian encoder and a Bernoulli decoder with one hidden layer each.

    Names are those of the widely used public example: `fc1` encodes, `fc21` gives the mean and
    `fc22` the log variance, `fc3` and `fc4` decode.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes (2014), appendix C.

    Args:
        latent: Width of the latent variable.
        hidden: Width of the hidden layers.
        in_features: Numbers in one input; images are flattened.
        activation: Of the hidden layers: `relu`, `softplus` or `tanh`.

    Raises:
        ValueError: There is no such activation.
    """

    def __init__(
        self,
        latent: int = 20,
        hidden: int = 400,
        in_features: int = 784,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.activation = _activation(activation)
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc21 = nn.Linear(hidden, latent)
        self.fc22 = nn.Linear(hidden, latent)
        self.fc3 = nn.Linear(latent, hidden)
        self.fc4 = nn.Linear(hidden, in_features)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs [b, ...] to mean and log variance of q(z | x), each [b, latent]."""
        h = self.activation(self.fc1(x.flatten(1)))
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        """Map latents [b, latent] to Bernoulli probabilities [b, in_features]."""
        return torch.sigmoid(self.fc4(self.activation(self.fc3(z))))


class GaussianVAE(nn.Module):
    """A Gaussian encoder and a Gaussian decoder with one hidden layer each.

    The decoder's means lie in (0, 1), and every pixel has a variance that depends on the latent,
    as in the experiments on Frey Faces.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes (2014), section 5 and appendix C.2.

    Args:
        latent: Width of the latent variable.
        hidden: Width of the hidden layers.
        in_features: Numbers in one input; images are flattened.
        activation: Of the hidden layers: `relu`, `softplus` or `tanh`.

    Raises:
        ValueError: There is no such activation.
    """

    def __init__(
        self,
        latent: int = 10,
        hidden: int = 200,
        in_features: int = 560,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.activation = _activation(activation)
        self.encoder_hidden = nn.Linear(in_features, hidden)
        self.encoder_mean = nn.Linear(hidden, latent)
        self.encoder_log_variance = nn.Linear(hidden, latent)
        self.decoder_hidden = nn.Linear(latent, hidden)
        self.decoder_mean = nn.Linear(hidden, in_features)
        self.decoder_log_variance = nn.Linear(hidden, in_features)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs [b, ...] to mean and log variance of q(z | x), each [b, latent]."""
        h = self.activation(self.encoder_hidden(x.flatten(1)))
        return self.encoder_mean(h), self.encoder_log_variance(h)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents [b, latent] to mean and log variance of p(x | z), each [b, in_features]."""
        h = self.activation(self.decoder_hidden(z))
        return torch.sigmoid(self.decoder_mean(h)), self.decoder_log_variance(h)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            x: Inputs [b, ...] in [0, 1].
            noise: Standard normal numbers [b, latent]; None decodes the mean.

        Returns:
            Mean of the reconstruction [b, in_features], mean and log variance of q [b, latent].
        """
        mean, log_variance = self.encode(x)
        return self.decode(_latents(mean, log_variance, noise))[0], mean, log_variance


class ConvVAE(_BernoulliVAE):
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
