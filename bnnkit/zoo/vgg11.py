"""VGG-11 with batch norm for CIFAR: eight convolutions and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["VGG11Cifar"]

# widths of the convolutions; None is a 2x2 max-pool
_LAYERS = (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None)


class VGG11Cifar(nn.Module):
    """Configuration A of VGG with batch norm, and one linear layer on the 1x1 maps it ends in.

    Parameter names are those of the widely used public CIFAR code: `features.N`, `classifier`.

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks (2015), table 1, column A;
        Atanov et al., Uncertainty Estimation via Stochastic Batch Normalization (2019).

    Args:
        num_classes: Width of the output (logits).
        in_channels: Channels of the 32x32 input.
        width: Factor on every hidden width, rounded to whole channels.
        dropout: Rate of the dropout before the last layer; 0 leaves it out of action.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for full in _LAYERS:
            if full is None:
                layers.append(nn.MaxPool2d(2))
                continue
            planes = max(1, round(full * width))
            layers += [
                nn.Conv2d(channels, planes, 3, padding=1),
                nn.BatchNorm2d(planes),
                nn.ReLU(),
            ]
            channels = planes
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 32, 32] to logits [b, num_classes]."""
        logits: Tensor = self.classifier(self.dropout(self.features(x).flatten(1)))
        return logits
