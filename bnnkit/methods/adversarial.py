"""Training a generator against a discriminator: losses, the constraint, the average of weights.

References:
    Goodfellow et al., Generative Adversarial Nets (2014), section 3: the non-saturating loss.
    Miyato et al., Spectral Normalization for Generative Adversarial Networks (2018).
    Yazici et al., The Unusual Effectiveness of Averaging in GAN Training (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel

__all__ = [
    "as_logits",
    "averaged",
    "constrain",
    "discriminator_loss",
    "ends_in_sigmoid",
    "generator_loss",
    "release",
]

_LAYERS = (nn.Linear, nn.Conv2d)
_DECAY = 0.999
_PROBABILITY_EPS = 1e-6


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return binary cross-entropy of real images as 1 and generated ones as 0, in nats.

    Args:
        real: Logits of real images `[n, ...]`.
        fake: Logits of generated images `[m, ...]`.

    Returns:
        The sum of both means; 2 log 2 where the discriminator knows nothing.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return the mean of -log P(real) over generated images, in nats (the non-saturating loss).

    Args:
        fake: Logits of generated images `[n, ...]`.
    """
    return F.softplus(-fake).mean()


def ends_in_sigmoid(module: nn.Module) -> bool:
    """Tell whether a discriminator answers with probabilities: its last part is a sigmoid."""
    leaves = [m for m in module.modules() if not list(m.children())]
    return bool(leaves) and isinstance(leaves[-1], nn.Sigmoid)


def as_logits(output: Tensor, *, probability: bool) -> Tensor:
    """Return logits, in float32, of a discriminator that answers with logits or probabilities."""
    output = output.float()
    return torch.logit(output, eps=_PROBABILITY_EPS) if probability else output


def constrain(discriminator: nn.Module) -> nn.Module:
    """Divide the weights of each layer by their largest singular value, in place."""
    for module in list(discriminator.modules()):
        if isinstance(module, _LAYERS):
            spectral_norm(module)
    return discriminator


def release(discriminator: nn.Module) -> nn.Module:
    """Make the divided weights the weights: a plain module that answers alike, in eval mode."""
    discriminator.eval()  # in train mode, each look at a weight would refine its singular value
    for module in list(discriminator.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return discriminator


def averaged(generator: nn.Module) -> AveragedModel:
    """Return a running average of a generator's weights, to be updated after every step.

    The decay grows with the number of steps n as min(.999, (1 + n) / (10 + n)), so that a short
    run forgets its start. Buffers are not averaged: batch-norm statistics belong to one set of
    weights, and are measured again at the end (`torch.optim.swa_utils.update_bn`).
    """

    def blend(average: Tensor, value: Tensor, n: Tensor | int) -> Tensor:
        steps = float(n)
        decay = min(_DECAY, (1 + steps) / (10 + steps))
        return average * decay + value * (1 - decay)

    return AveragedModel(generator, avg_fn=blend)
