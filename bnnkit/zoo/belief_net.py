"""A sigmoid belief net for MNIST: one layer of binary latents and a recognition net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SigmoidBeliefNet"]


class SigmoidBeliefNet(nn.Module):
    """Binary latents h ~ Bernoulli(sigmoid(c)), pixels x ~ Bernoulli(sigmoid(W h + b)).

    References:
        Hjelm et al., Iterative refinement of the approximate posterior for directed belief
        networks (2016), sec. 2.1 and table 1.

    Args:
        latent: Number of binary latents.
        hidden: Width of a softplus layer in the recognition net and in the decoder; None connects
            pixels and latents directly.
        in_features: Numbers in one input; images are flattened.
    """

    def __init__(
        self, latent: int = 200, hidden: int | None = None, in_features: int = 784
    ) -> None:
        super().__init__()
        self.recognition = _connect(in_features, hidden, latent)
        self.decoder = _connect(latent, hidden, in_features)
        self.prior = nn.Parameter(torch.zeros(latent))

    def encode(self, x: Tensor) -> Tensor:
        """Map inputs [b, ...] to the logits of q(h | x), [b, latent]."""
        logits: Tensor = self.recognition(x.flatten(1))
        return logits

    def prior_logits(self) -> Tensor:
        """Return c, the logits of p(h), [latent]."""
        return self.prior

    def decode(self, h: Tensor) -> Tensor:
        """Map latents [b, latent], zeros and ones, to the logits of the pixels [b, in_features].

        Means of latents, between 0 and 1, may be passed through as well.
        """
        logits: Tensor = self.decoder(h)
        return logits

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            x: Inputs [b, ...] in [0, 1].
            noise: Uniform numbers in [0, 1), [b, latent]; None decodes the mean.

        Returns:
            Logits of the pixels [b, in_features], and of q(h | x), [b, latent].
        """
        logits = self.encode(x)
        mean = torch.sigmoid(logits)
        h = mean if noise is None else (noise < mean).to(mean)
        return self.decode(h), logits


def _connect(width_in: int, hidden: int | None, width_out: int) -> nn.Sequential:
    """Return a linear map, or two with a softplus layer between them."""
    if hidden is None:
        return nn.Sequential(nn.Linear(width_in, width_out))
    return nn.Sequential(nn.Linear(width_in, hidden), nn.Softplus(), nn.Linear(hidden, width_out))
