"""Reference architectures of the papers, by name: plain modules with fresh weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from bnnkit.zoo.belief_net import SigmoidBeliefNet
from bnnkit.zoo.digits import DigitsCNN
from bnnkit.zoo.gan import (
    DCGAN32Discriminator,
    DCGAN32Generator,
    DCGANDiscriminator,
    DCGANGenerator,
    mlp_gan_discriminator,
    mlp_gan_generator,
)
from bnnkit.zoo.lenet import LeNet5BN, LeNet5Caffe, MnistLeNet
from bnnkit.zoo.mlp import lenet_300_100, mlp_500_300
from bnnkit.zoo.resnet import resnet20, resnet32, resnet44, resnet56
from bnnkit.zoo.resnet18 import ResNet18Cifar
from bnnkit.zoo.vae import ConvVAE, GaussianVAE, MnistVAE
from bnnkit.zoo.vgg import VGGCifar
from bnnkit.zoo.vgg11 import VGG11Cifar

__all__ = ["GENERATIVE", "INPUT_SHAPES", "ZOO", "Generative"]

ZOO: dict[str, Callable[..., nn.Module]] = {
    "dcgan-discriminator": DCGANDiscriminator,
    "dcgan-generator": DCGANGenerator,
    "dcgan32-discriminator": DCGAN32Discriminator,
    "dcgan32-generator": DCGAN32Generator,
    "digits-cnn": DigitsCNN,
    "lenet-300-100": lenet_300_100,
    "lenet5-bn": LeNet5BN,
    "lenet5-caffe": LeNet5Caffe,
    "mlp-500-300": mlp_500_300,
    "mlp-gan-discriminator": mlp_gan_discriminator,
    "mlp-gan-generator": mlp_gan_generator,
    "mnist-lenet": MnistLeNet,
    "resnet18-cifar": ResNet18Cifar,
    "resnet20-cifar": resnet20,
    "resnet32-cifar": resnet32,
    "resnet44-cifar": resnet44,
    "resnet56-cifar": resnet56,
    "sbn-mnist": SigmoidBeliefNet,
    "vae-conv": ConvVAE,
    "vae-gaussian": GaussianVAE,
    "vae-mnist": MnistVAE,
    "vgg-cifar": VGGCifar,
    "vgg11-cifar": VGG11Cifar,
}
"""Factory of each architecture; every factory works without arguments."""

INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "dcgan-discriminator": (3, 64, 64),
    "dcgan-generator": (100, 1, 1),
    "dcgan32-discriminator": (3, 32, 32),
    "dcgan32-generator": (64,),
    "digits-cnn": (1, 8, 8),
    "lenet-300-100": (1, 28, 28),
    "lenet5-bn": (1, 28, 28),
    "lenet5-caffe": (1, 28, 28),
    "mlp-500-300": (1, 28, 28),
    "mlp-gan-discriminator": (784,),
    "mlp-gan-generator": (64,),
    "mnist-lenet": (1, 32, 32),
    "resnet18-cifar": (3, 32, 32),
    "resnet20-cifar": (3, 32, 32),
    "resnet32-cifar": (3, 32, 32),
    "resnet44-cifar": (3, 32, 32),
    "resnet56-cifar": (3, 32, 32),
    "sbn-mnist": (1, 28, 28),
    "vae-conv": (1, 28, 28),
    "vae-gaussian": (1, 28, 20),
    "vae-mnist": (1, 28, 28),
    "vgg-cifar": (3, 32, 32),
    "vgg11-cifar": (3, 32, 32),
}
"""Shape of one input of each architecture as its factory builds it, without the batch."""


class Generative(NamedTuple):
    """An architecture that is trained to make images, and not to tell classes apart.

    Args:
        task: `generator`, trained against a discriminator, or `autoencoder`.
        image: Channels, height and width of an image as the factory builds it.
        discriminator: Name of the architecture that a generator is trained against.
        sized_by: The argument of that architecture that the image decides.
    """

    task: str
    image: tuple[int, int, int]
    discriminator: str = ""
    sized_by: str = ""


GENERATIVE: dict[str, Generative] = {
    "dcgan-generator": Generative("generator", (3, 64, 64), "dcgan-discriminator", "in_channels"),
    "dcgan32-generator": Generative(
        "generator", (3, 32, 32), "dcgan32-discriminator", "in_channels"
    ),
    "mlp-gan-generator": Generative(
        "generator", (1, 28, 28), "mlp-gan-discriminator", "in_features"
    ),
    "vae-conv": Generative("autoencoder", (1, 28, 28)),
    "vae-mnist": Generative("autoencoder", (1, 28, 28)),
}
"""What makes images; all others are classifiers, or discriminators of these."""
