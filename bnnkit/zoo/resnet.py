"""Residual nets for CIFAR with parameter-free shortcuts: depths 20, 32, 44 and 56."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BasicBlock", "ResNetCifar", "resnet20", "resnet32", "resnet44", "resnet56"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and the shortcut of option A.

    Args:
        in_planes: Channels that come in.
        planes: Channels that go out.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shrinks = stride != 1 or in_planes != planes
        self.padding = planes // 4

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, in_planes, h, w] to [b, planes, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shrinks:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class ResNetCifar(nn.Module):
    """The CIFAR ResNet of depth 6n + 2 (He et al. 2016, section 4.2), shortcuts of option A.

    Parameter names are those of the widely used public checkpoints: `conv1`, `bn1`,
    `layer1.0.conv1` ... `linear`. A shortcut that halves the image takes every second pixel and
    pads zero channels on both sides.

    Args:
        blocks: Blocks in each of the three stages (n).
        num_classes: Width of the output (logits).
        in_channels: Channels of the 32x32 input.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 32, 32] to logits [b, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Chain the blocks of one image size."""
    first = BasicBlock(in_planes, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """Build ResNet-20 for CIFAR."""
    return ResNetCifar(3, num_classes, in_channels)


def resnet32(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """Build ResNet-32 for CIFAR."""
    return ResNetCifar(5, num_classes, in_channels)


def resnet44(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """Build ResNet-44 for CIFAR."""
    return ResNetCifar(7, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """Build ResNet-56 for CIFAR."""
    return ResNetCifar(9, num_classes, in_channels)
