"""The convolutional LeNets: Caffe's widths, with batch norm too, and the classic 6-16-120-84."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LeNet5BN", "LeNet5Caffe", "MnistLeNet"]


class LeNet5Caffe(nn.Module):
    """LeNet-5 in the Caffe widths 20-50-800-500 (Neklyudov et al. 2017, section 5.1).

    As in the SBP authors' code there is a ReLU after each convolution (Caffe's own has none);
    their unpadded 5x5 kernels leave 50 maps of 4x4, the 800 features of the paper's tables.

    Args:
        num_classes: Width of the output (logits).
        in_channels: Channels of the 28x28 input.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 28, 28] to logits [b, num_classes]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


class LeNet5BN(nn.Module):
    """LeNet-5 in the Caffe widths with batch norm after both convolutions and after `fc1`.

    Layers that batch norm follows have no bias, since it would be subtracted again.

    References:
        Atanov et al., Uncertainty Estimation via Stochastic Batch Normalization (2019).

    Args:
        num_classes: Width of the output (logits).
        in_channels: Channels of the 28x28 input.
        dropout: Rate of the dropout before the last layer; 0 leaves it out of action.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5, bias=False)
        self.bn1 = nn.BatchNorm2d(20)
        self.conv2 = nn.Conv2d(20, 50, 5, bias=False)
        self.bn2 = nn.BatchNorm2d(50)
        self.fc1 = nn.Linear(800, 500, bias=False)
        self.bn3 = nn.BatchNorm1d(500)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 28, 28] to logits [b, num_classes]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.fc1(x.flatten(1))))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits


class MnistLeNet(nn.Module):
    """LeNet-5 with the widths 6-16-120-84 for 32x32 inputs in [0, 1] (LeCun et al. 1998).

    Names and log-softmax output are those of a widely used public MNIST checkpoint.

    Args:
        num_classes: Width of the output (log-probabilities).
        in_channels: Channels of the 32x32 input.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.convnet = nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(in_channels, 6, 5),
                relu1=nn.ReLU(),
                s2=nn.MaxPool2d(2, 2),
                c3=nn.Conv2d(6, 16, 5),
                relu3=nn.ReLU(),
                s4=nn.MaxPool2d(2, 2),
                c5=nn.Conv2d(16, 120, 5),
                relu5=nn.ReLU(),
            )
        )
        self.fc = nn.Sequential(
            OrderedDict(
                f6=nn.Linear(120, 84),
                relu6=nn.ReLU(),
                f7=nn.Linear(84, num_classes),
                sig7=nn.LogSoftmax(dim=-1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 32, 32] to log-probabilities [b, num_classes]."""
        log_probs: Tensor = self.fc(self.convnet(x).flatten(1))
        return log_probs
