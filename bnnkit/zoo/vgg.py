"""The VGG-like net of the SBP paper for CIFAR: 13 convolutions with batch norm and dropout."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["VGGCifar"]

# (width, dropout after the activation); None is a 2x2 max-pool
_LAYERS: tuple[tuple[int, float] | None, ...] = (
    (64, 0.3),
    (64, 0.0),
    None,
    (128, 0.4),
    (128, 0.0),
    None,
    (256, 0.4),
    (256, 0.4),
    (256, 0.0),
    None,
    (512, 0.4),
    (512, 0.4),
    (512, 0.0),
    None,
    (512, 0.4),
    (512, 0.4),
    (512, 0.0),
    None,
)


class VGGCifar(nn.Module):
    """Zagoruyko's VGG with batch norm and dropout, the net of table 2 of the SBP paper.

    Thirteen 3x3 convolutions, each followed by batch norm (eps 1e-3) and ReLU, dropout of 0.3 to
    0.4 between the convolutions of a block and 0.5 around the 512 wide fully connected layer.
    The SBP authors' code has the same layers without the dropout of the last block. Dropout does
    nothing in eval mode; `dropout=0` trains without it.

    References:
        S. Zagoruyko, 92.45% on CIFAR-10 in Torch (2015), `vgg_bn_drop.lua`;
        Neklyudov et al., Structured Bayesian Pruning (2017), section 5.2.

    Args:
        num_classes: Width of the output (logits).
        in_channels: Channels of the 32x32 input.
        scale: Factor on every hidden width, rounded to whole channels.
        dropout: Factor on every dropout rate; 0 leaves the dropout layers out of action.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        scale: float = 1.0,
        dropout: float = 1.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for layer in _LAYERS:
            if layer is None:
                layers.append(nn.MaxPool2d(2))
                continue
            width, rate = max(1, round(layer[0] * scale)), layer[1]
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width, eps=1e-3),
                nn.ReLU(),
            ]
            if rate:
                layers.append(nn.Dropout(rate * dropout))
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5 * dropout),
            nn.Linear(channels, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(0.5 * dropout),
            nn.Linear(channels, num_classes),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None  # built with one above
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, in_channels, 32, 32] to logits [b, num_classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
