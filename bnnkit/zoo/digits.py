"""A small, roomy convolutional net for the embedded 8x8 digits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DigitsCNN"]


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions with batch norm and one linear layer.

    It is much wider than the digits need, so that a demonstration has something to remove.

    Args:
        num_classes: Width of the output (logits).
        in_channels: Channels of the 8x8 input.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64 * 2 * 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 8, 8] to logits [b, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        logits: Tensor = self.fc(x.flatten(1))
        return logits
