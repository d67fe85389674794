"""What chains are run on: log p/q of images, from a net, from features, or from both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnkit.methods.mh.objectives import log_d

__all__ = [
    "CalibratedScore",
    "ConvScore",
    "FeatureScore",
    "LinearScore",
    "MixedScore",
    "OwnScore",
    "fit_linear",
    "score_images",
]

_TINY, _BELOW_ONE = 1e-30, 1 - 2.0**-24
_SPREAD = 1e-6


class ConvScore(nn.Module):
    """The score of a discriminator that was trained on images.

    Args:
        net: From images in [0, 1] (and labels) to logits.
        floor: b of d in [b, 1] where it was trained by the upper bound; None for a plain logit.
    """

    def __init__(self, net: nn.Module, floor: float | None = None) -> None:
        super().__init__()
        self.net, self.floor = net, floor

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p/q `[n]` up to a constant, for images `[n, c, h, w]` in [0, 1]."""
        logit: Tensor = self.net(images, labels)
        return logit if self.floor is None else log_d(logit, self.floor)


class LinearScore(nn.Module):
    """A linear score of standardised features; with classes, a direction for each besides.

    Args:
        mean: Of each feature `[d]`.
        scale: Its deviation `[d]`.
        weight: `[d]`.
        by_class: `[k, d]`, added to the weight of a class; None without labels.
    """

    def __init__(
        self, mean: Tensor, scale: Tensor, weight: Tensor, by_class: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.register_buffer("weight", weight.float())
        self.register_buffer("by_class", None if by_class is None else by_class.float())

    mean: Tensor
    scale: Tensor
    weight: Tensor
    by_class: Tensor | None

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores `[n]` of features `[n, d]`."""
        x = (features - self.mean) / self.scale
        if self.by_class is None or labels is None:
            return x @ self.weight
        return (x * (self.weight + self.by_class[labels])).sum(1)


class FeatureScore(nn.Module):
    """A linear score on the features of a model.

    Args:
        net: From images in [0, 1] to features `[n, d]` and outputs.
        linear: The score of these features.
    """

    def __init__(self, net: nn.Module, linear: LinearScore) -> None:
        super().__init__()
        self.net, self.linear = net, linear

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p/q `[n]` up to a constant, for images `[n, c, h, w]` in [0, 1]."""
        score: Tensor = self.linear(self.net(images)[0], labels)
        return score


class OwnScore(nn.Module):
    """The score of the discriminator that a generator was trained against.

    Args:
        net: From images in [0, 1] to features and its own outputs, one number an image.
        probability: Whether that number is P(real); else its logit.
    """

    def __init__(self, net: nn.Module, probability: bool) -> None:
        super().__init__()
        self.net, self.probability = net, probability

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p/q `[n]` up to a constant, for images `[n, c, h, w]` in [0, 1]."""
        # not len(images), which would fix the batch size of an exported graph
        out: Tensor = self.net(images)[1].reshape(images.shape[0])
        # in float32 a probability near 1 has steps of 6e-8: what rounds to 1 is a tie
        return torch.logit(out.clamp(_TINY, _BELOW_ONE)) if self.probability else out


class MixedScore(nn.Module):
    """A weighted mean of two scores: a geometric mean of two density ratios.

    Args:
        first: One score.
        second: The other.
        share: Weight of the second.
    """

    def __init__(self, first: nn.Module, second: nn.Module, share: float) -> None:
        super().__init__()
        self.first, self.second, self.share = first, second, share

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p/q `[n]` up to a constant, for images `[n, c, h, w]` in [0, 1]."""
        a, b = self.first(images, labels), self.second(images, labels)
        mixed: Tensor = (1 - self.share) * a + self.share * b
        return mixed


class CalibratedScore(nn.Module):
    """A score divided by a temperature, or put through a monotone map.

    Args:
        score: The score.
        temperature: What it is divided by.
        knots: Scores and their images under the map `[2, m]`, linear in between and constant
            outside; None without one.
    """

    def __init__(
        self, score: nn.Module, temperature: float = 1.0, knots: Tensor | None = None
    ) -> None:
        super().__init__()
        self.score, self.temperature = score, temperature
        self.register_buffer("knots", None if knots is None else knots.float())

    knots: Tensor | None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p/q `[n]` up to a constant, for images `[n, c, h, w]` in [0, 1]."""
        raw: Tensor = self.score(images, labels)
        return self.calibrate(raw)

    def calibrate(self, raw: Tensor) -> Tensor:
        """Map raw scores `[n]` to log p/q."""
        if self.knots is None:
            return raw / self.temperature
        x, y = self.knots.to(raw).unbind()
        right = torch.searchsorted(x, raw.contiguous()).clamp(1, len(x) - 1)
        left = right - 1
        share = ((raw - x[left]) / (x[right] - x[left]).clamp_min(_TINY)).clamp(0, 1)
        mapped: Tensor = (y[left] + share * (y[right] - y[left])) / self.temperature
        return mapped


def score_images(
    score: nn.Module, images: Tensor, labels: Tensor | None = None, batch_size: int = 1000
) -> Tensor:
    """Return the scores of byte images, float64 on the CPU.

    Args:
        score: One of the scores of this module.
        images: uint8 `[n, c, h, w]`.
        labels: int64 `[n]`, for class-conditional scores.
        batch_size: Images at once.
    """
    device = next((p.device for p in score.parameters()), torch.device("cpu"))
    out = []
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            x = images[rows].to(device).float() / 255
            out.append(score(x, None if labels is None else labels[rows].to(device)).cpu())
    return torch.cat(out).double()


def fit_linear(
    real: Tensor,
    fake: Tensor,
    *,
    real_labels: Tensor | None = None,
    fake_labels: Tensor | None = None,
    strength: float = 0.1,
) -> LinearScore:
    """Fit a logistic regression of real against generated on features.

    Its score tilts q exponentially, so that the means of the features become those of p.

    Args:
        real: Features of real images `[n, d]`.
        fake: Features of generated images `[m, d]`.
        real_labels: int64 `[n]`: each class gets a direction of its own besides the common one.
        fake_labels: int64 `[m]`, likewise.
        strength: Inverse strength of the ridge penalty, as scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    both = torch.cat([real, fake]).double()
    mean, scale = both.mean(0), both.std(0) + _SPREAD
    x = ((both - mean) / scale).float()
    count, classes = x.shape[1], 0
    if real_labels is not None and fake_labels is not None:
        labels = torch.cat([real_labels, fake_labels])
        classes = int(labels.max()) + 1
        blocks = torch.nn.functional.one_hot(labels, classes).float()[:, :, None] * x[:, None, :]
        x = torch.cat([x, blocks.flatten(1)], dim=1)
    y = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))])
    model = LogisticRegression(C=strength, max_iter=300, class_weight="balanced")
    model.fit(x.numpy(), y.numpy())
    weight = torch.from_numpy(model.coef_[0]).float()
    by_class = weight[count:].reshape(classes, count) if classes else None
    return LinearScore(mean, scale, weight[:count], by_class)
