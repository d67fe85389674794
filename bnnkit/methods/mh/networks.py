"""Discriminators that are trained after the fact: small convolutional nets on images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["ConvDiscriminator", "PairDiscriminator", "without_spectral_norm"]

_SLOPE = 0.2
_HALVED = 16
"""Shorter side, in pixels, from which images are looked at in half resolution."""


def _body(channels: int, shape: tuple[int, int], width: int) -> nn.Sequential:
    """Build strided convolutions down to 4x4 or so; spectral norm keeps their slopes bounded."""
    layers: list[nn.Module] = []
    inside, (height, breadth) = channels, shape
    for i, out in enumerate((width, 2 * width, 4 * width)):
        kernel = 5 if i < 2 else 3
        stride = 2 if min(height, breadth) > 4 else 1
        layers += [
            spectral_norm(nn.Conv2d(inside, out, kernel, stride, kernel // 2)),
            nn.LeakyReLU(_SLOPE),
        ]
        height, breadth, inside = -(-height // stride), -(-breadth // stride), out
    while max(height, breadth) > 8:  # large images: go on halving at the same width
        layers += [spectral_norm(nn.Conv2d(inside, inside, 3, 2, 1)), nn.LeakyReLU(_SLOPE)]
        height, breadth = -(-height // 2), -(-breadth // 2)
    return nn.Sequential(*layers, nn.Flatten())


class ConvDiscriminator(nn.Module):
    """A logit of real against generated for one image, and its class where there are classes.

    It looks at the means of blocks of 2x2 pixels, and in training with a little noise on them
    (Sønderby et al. 2017): most of what gives generated images away is fine grain that all of
    them share. No choice among proposals can mend that, and a score that follows it spends
    acceptance on it. Images below 16 pixels are read as they are.

    Args:
        shape: Channels, height and width.
        width: Channels after the first layer.
        dropout: Rate before the last layer.
        classes: Number of classes; each adds a direction of its own to the last layer (the
            projection of Miyato and Koyama 2018). None for images without labels.
        noise: Deviation of the noise; pixels are in [0, 1].
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int = 16,
        dropout: float = 0.5,
        classes: int | None = None,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.noise = tuple(shape), classes, noise
        self.halved = min(shape[1:]) >= _HALVED
        height, breadth = (side // 2 if self.halved else side for side in shape[1:])
        self.body = _body(shape[0], (height, breadth), width)
        with torch.no_grad():
            size = self.body.eval()(torch.zeros(1, shape[0], height, breadth)).shape[1]
        self.body.train()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, 1)
        self.by_class = nn.Embedding(classes, size) if classes else None
        if self.by_class is not None:
            nn.init.zeros_(self.by_class.weight)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits `[n]` of images `[n, c, h, w]` in [0, 1]."""
        seen = F.avg_pool2d(images, 2) if self.halved else images
        if self.training and self.noise:
            seen = seen + self.noise * torch.randn_like(seen)
        features = self.dropout(self.body(2 * seen - 1))
        logits: Tensor = self.head(features).squeeze(1)
        if self.by_class is not None and labels is not None:
            logits = logits + (self.by_class(labels) * features).sum(1)
        return logits


class PairDiscriminator(nn.Module):
    """A logit of `first is real and second its proposal` for pairs of images.

    Args:
        shape: Channels, height and width of one image.
        width: Channels after the first layer.
        dropout: Rate before the last layer.
        noise: Deviation of the noise in training; pixels are in [0, 1].
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int = 16,
        dropout: float = 0.5,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        both = (2 * shape[0], shape[1], shape[2])
        self.inner = ConvDiscriminator(both, width, dropout, noise=noise)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return logits `[n]` of pairs of images, each `[n, c, h, w]` in [0, 1]."""
        logits: Tensor = self.inner(torch.cat([first, second], dim=1))
        return logits


def without_spectral_norm(module: nn.Module) -> nn.Module:
    """Write the normalised weights into the layers, for evaluation and for files; in place."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module
