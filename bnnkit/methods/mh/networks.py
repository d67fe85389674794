"""Discriminators that are trained after the fact: small convolutional nets on images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["ConvDiscriminator", "PairDiscriminator", "without_spectral_norm"]

_SLOPE = 0.2


def _body(channels: int, shape: tuple[int, int], width: int, dropout: float) -> nn.Sequential:
    """Build strided convolutions down to 4x4 or so; spectral norm keeps their slopes bounded."""
    layers: list[nn.Module] = []
    inside, (height, breadth) = channels, shape
    for i, out in enumerate((width, 2 * width, 4 * width)):
        kernel = 5 if i < 2 else 3
        stride = 2 if min(height, breadth) > 2 else 1
        layers += [
            spectral_norm(nn.Conv2d(inside, out, kernel, stride, kernel // 2)),
            nn.LeakyReLU(_SLOPE),
            nn.Dropout(dropout),
        ]
        height, breadth, inside = -(-height // stride), -(-breadth // stride), out
    while max(height, breadth) > 8:  # large images: go on halving at the same width
        layers += [spectral_norm(nn.Conv2d(inside, inside, 3, 2, 1)), nn.LeakyReLU(_SLOPE)]
        height, breadth = -(-height // 2), -(-breadth // 2)
    return nn.Sequential(*layers, nn.Flatten())


class ConvDiscriminator(nn.Module):
    """A logit of real against generated for one image, and its class where there are classes.

    Args:
        shape: Channels, height and width.
        width: Channels after the first layer.
        dropout: Rate after each of the first three layers.
        classes: Number of classes; each adds a direction of its own to the last layer (the
            projection of Miyato and Koyama 2018). None for images without labels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int = 16,
        dropout: float = 0.1,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.body = _body(shape[0], (shape[1], shape[2]), width, dropout)
        with torch.no_grad():
            size = self.body.eval()(torch.zeros(1, *shape)).shape[1]
        self.body.train()
        self.head = nn.Linear(size, 1)
        self.by_class = nn.Embedding(classes, size) if classes else None
        if self.by_class is not None:
            nn.init.zeros_(self.by_class.weight)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits `[n]` of images `[n, c, h, w]` in [0, 1]."""
        features = self.body(2 * images - 1)
        logits: Tensor = self.head(features).squeeze(1)
        if self.by_class is not None and labels is not None:
            logits = logits + (self.by_class(labels) * features).sum(1)
        return logits


class PairDiscriminator(nn.Module):
    """A logit of `first is real and second its proposal` for pairs of images.

    Args:
        shape: Channels, height and width of one image.
        width: Channels after the first layer.
        dropout: Rate after each layer.
    """

    def __init__(self, shape: tuple[int, int, int], width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        both = (2 * shape[0], shape[1], shape[2])
        self.inner = ConvDiscriminator(both, width, dropout)

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
