r"""Full variational Bayes: a Gaussian posterior over the decoder's weights as well.

.. math:: \log p(X) \ge E_{q(\theta)} \sum_i L_i(\theta) - KL(q(\theta) || N(0, I))

with L_i the evidence lower bound of datum i at the weights θ. Each weight is N(mean, sigma²): the
mean is the module's own parameter, so that the module is the posterior's mean. One θ is drawn for
each batch.

References:
    Kingma and Welling, Auto-encoding variational Bayes (2014), appendix F.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bnnkit.methods.vae.latent_model import LatentModel

__all__ = ["DecoderPosterior"]

_START = -4.0
"""Initial log sigma: small beside weights, large enough for the divergence to have a slope."""


class _Decoder(nn.Module):
    """A decoding function as a module, so that its weights can be drawn."""

    def __init__(self, module: nn.Module, decode: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.module = module
        self.decode = decode

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """Decode."""
        return self.decode(z)


class DecoderPosterior(nn.Module):
    """Independent Gaussians over some of the parameters of a module.

    Args:
        module: Whose parameters hold the means.
        names: Which parameters have a posterior.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        found = dict(module.named_parameters())
        self._means = [found[name] for name in self.names]  # the module's, not this one's
        self.log_sigma = nn.ParameterList(torch.full_like(m, _START) for m in self._means)

    def kl(self) -> Tensor:
        """Return KL(q(θ) || N(0, I)) in nats."""
        pairs = zip(self._means, self.log_sigma, strict=True)
        terms = [0.5 * (m.square() + (2 * s).exp() - 1 - 2 * s).sum() for m, s in pairs]
        return torch.stack(terms).sum()

    def drawn(
        self, model: LatentModel, module: nn.Module, generator: torch.Generator
    ) -> LatentModel:
        """Return the model with decoder weights drawn from the posterior.

        Args:
            model: Whose decoder runs `module`.
            module: The module whose parameters hold the means.
            generator: Source of the noise, on the CPU.
        """
        weights = {}
        for name, mean, log_sigma in zip(self.names, self._means, self.log_sigma, strict=True):
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            weights[f"module.{name}"] = mean + log_sigma.exp() * noise
        decoder = _Decoder(module, model.decode)
        return replace(model, decode=lambda z: functional_call(decoder, weights, (z,)))
