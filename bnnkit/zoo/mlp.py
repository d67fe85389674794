"""The fully connected nets of the pruning papers: 784-300-100-10 and 784-500-300-10."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MLP", "lenet_300_100", "mlp_500_300"]


class MLP(nn.Module):
    """A fully connected classifier with ReLU between its layers `fc1`, `fc2` ...

    Args:
        hidden: Widths of the hidden layers.
        num_classes: Width of the output (logits).
        in_features: Numbers in one input; images are flattened.
    """

    def __init__(
        self, hidden: Sequence[int], num_classes: int = 10, in_features: int = 784
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, num_classes]
        self.depth = len(widths) - 1
        for i in range(self.depth):
            self.add_module(f"fc{i + 1}", nn.Linear(widths[i], widths[i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [b, ...] of `in_features` numbers each to logits [b, num_classes]."""
        x = x.flatten(1)
        for i in range(1, self.depth):
            x = F.relu(self.get_submodule(f"fc{i}")(x))
        logits: Tensor = self.get_submodule(f"fc{self.depth}")(x)
        return logits


def lenet_300_100(num_classes: int = 10, in_features: int = 784) -> MLP:
    """Build LeNet-300-100 (LeCun et al. 1998, the fully connected net of the pruning papers)."""
    return MLP((300, 100), num_classes, in_features)


def mlp_500_300(num_classes: int = 10, in_features: int = 784) -> MLP:
    """Build the 784-500-300-10 net of the SBP paper (Neklyudov et al. 2017, table 1)."""
    return MLP((500, 300), num_classes, in_features)
