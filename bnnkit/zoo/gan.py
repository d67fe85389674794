"""Generators and discriminators: a fully connected GAN for MNIST, DCGANs of 64 and 32 pixels."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = [
    "DCGAN32Discriminator",
    "DCGAN32Generator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "mlp_gan_discriminator",
    "mlp_gan_generator",
]


def mlp_gan_generator(
    latent: int = 64, hidden: int = 256, out_features: int = 784
) -> nn.Sequential:
    """Build the generator: noise [b, latent] to flat images [b, out_features] in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(latent, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out_features),
        nn.Tanh(),
    )


def mlp_gan_discriminator(in_features: int = 784, hidden: int = 256) -> nn.Sequential:
    """Build the discriminator: flat images [b, in_features] to P(real) [b, 1]."""
    return nn.Sequential(
        nn.Linear(in_features, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, 1),
        nn.Sigmoid(),
    )


def _init_dcgan(module: nn.Module) -> None:
    """Draw weights as in Radford et al. 2016, section 3: deviation 0.02."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class DCGANGenerator(nn.Module):
    """The generator of DCGAN (Radford et al. 2016, figure 1) for 64x64 images in [-1, 1].

    Args:
        latent: Channels of the noise [b, latent, 1, 1].
        width: Channels before the last layer; each earlier layer has twice as many.
        out_channels: Channels of the image.
    """

    def __init__(self, latent: int = 100, width: int = 64, out_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = latent
        for factor, stride, padding in ((8, 1, 0), (4, 2, 1), (2, 2, 1), (1, 2, 1)):
            layers += [
                nn.ConvTranspose2d(channels, width * factor, 4, stride, padding, bias=False),
                nn.BatchNorm2d(width * factor),
                nn.ReLU(),
            ]
            channels = width * factor
        last = nn.ConvTranspose2d(channels, out_channels, 4, 2, 1, bias=False)
        self.main = nn.Sequential(*layers, last, nn.Tanh())
        self.apply(_init_dcgan)

    def forward(self, z: Tensor) -> Tensor:
        """Map noise [b, latent, 1, 1] to images [b, out_channels, 64, 64]."""
        images: Tensor = self.main(z)
        return images


class DCGANDiscriminator(nn.Module):
    """The discriminator of DCGAN (Radford et al. 2016) for 64x64 images.

    Args:
        in_channels: Channels of the image.
        width: Channels after the first layer; each later layer has twice as many.
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, width, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
        ]
        for factor in (1, 2, 4):
            layers += [
                nn.Conv2d(width * factor, width * factor * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width * factor * 2),
                nn.LeakyReLU(0.2),
            ]
        last = nn.Conv2d(width * 8, 1, 4, 1, 0, bias=False)
        self.main = nn.Sequential(*layers, last, nn.Sigmoid())
        self.apply(_init_dcgan)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 64, 64] to P(real) [b, 1]."""
        probabilities: Tensor = self.main(x).flatten(1)
        return probabilities


class DCGAN32Generator(nn.Module):
    """A small DCGAN (Radford et al. 2016) for 32x32 images in [-1, 1], from a flat latent.

    Args:
        latent: Numbers in one latent.
        width: Channels before the last layer; each earlier layer has twice as many.
        out_channels: Channels of the image.
    """

    def __init__(self, latent: int = 64, width: int = 32, out_channels: int = 3) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(latent, 4 * width * 4 * 4, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(4 * width), nn.ReLU()]
        for factor in (4, 2):
            layers += [
                nn.ConvTranspose2d(width * factor, width * factor // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width * factor // 2),
                nn.ReLU(),
            ]
        last = nn.ConvTranspose2d(width, out_channels, 4, 2, 1)
        self.main = nn.Sequential(*layers, last, nn.Tanh())
        self.apply(_init_dcgan)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [b, latent] to images [b, out_channels, 32, 32]."""
        images: Tensor = self.main(self.project(z).unflatten(1, (4 * self.width, 4, 4)))
        return images


class DCGAN32Discriminator(nn.Module):
    """A discriminator for 32x32 images, without batch norm: an answer depends on its image alone.

    Args:
        in_channels: Channels of the image.
        width: Channels after the first layer; each later layer has twice as many.
    """

    def __init__(self, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for factor in (1, 2, 4):
            layers += [nn.Conv2d(channels, width * factor, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels = width * factor
        self.main = nn.Sequential(*layers)
        self.score = nn.Linear(channels * 4 * 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 32, 32] to logits of P(real) [b, 1]."""
        logits: Tensor = self.score(self.main(x).flatten(1))
        return logits
