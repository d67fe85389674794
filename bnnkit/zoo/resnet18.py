"""The wide residual net for CIFAR: ResNet-18 with a 3x3 stem and projection shortcuts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ProjectionBlock", "ResNet18Cifar"]


class ProjectionBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and the shortcut of option B.

    Args:
        in_planes: Channels that come in.
        planes: Channels that go out.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False),
                nn.BatchNorm2d(planes),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, in_planes, h, w] to [b, planes, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet18Cifar(nn.Module):
    """ResNet-18 as it is widely used on CIFAR: 64 to 512 channels, two blocks a stage.

    The stem is one 3x3 convolution without pooling. Parameter names are those of the widely used
    public code: `conv1`, `bn1`, `layer2.0.conv1`, `layer2.0.shortcut.0` ... `linear`.

    References:
        He et al., Deep Residual Learning (2016), table 1, shortcuts of option B;
        Atanov et al., Uncertainty Estimation via Stochastic Batch Normalization (2019).

    Args:
        num_classes: Width of the output (logits).
        in_channels: Channels of the 32x32 input.
        width: Factor on every hidden width, rounded to whole channels.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        first, second, third, fourth = (max(1, round(w * width)) for w in (64, 128, 256, 512))
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, stride=1)
        self.layer2 = _stage(first, second, stride=2)
        self.layer3 = _stage(second, third, stride=2)
        self.layer4 = _stage(third, fourth, stride=2)
        self.linear = nn.Linear(fourth, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 32, 32] to logits [b, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    """Chain the two blocks of one image size."""
    return nn.Sequential(
        ProjectionBlock(in_planes, planes, stride), ProjectionBlock(planes, planes, 1)
    )
