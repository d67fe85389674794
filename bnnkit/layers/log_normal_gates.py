"""Gates with truncated log-normal posteriors, one for every unit of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bnnkit.bayes import truncated_lognormal as tln
from bnnkit.layers.gate_product import gate_product

__all__ = ["LOG_SIGMA_RANGE", "MU_RANGE", "LogNormalGates"]

MU_RANGE = (-20.0, 5.0)
LOG_SIGMA_RANGE = (-20.0, 5.0)


class LogNormalGates(nn.Module):
    """The multiplicative noise of Structured Bayesian Pruning (Neklyudov et al. 2017).

    y = x θ with q(θ) = LogN_[a,b](μ, σ²), one θ for every unit. In training every forward pass
    draws fresh noise, one value per example and unit; in eval mode the gate is its mean. All
    units are sampled in one call, and a class that is read in several places is read with the
    same draw.

    Args:
        sizes: Units of each class, in order.
        init_log_sigma: Where log σ starts; μ starts at 0.
        generator: Source of the noise.
        per_example: One draw per example (lower gradient variance), or one per batch.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        init_log_sigma: float,
        generator: torch.Generator,
        per_example: bool = True,
    ) -> None:
        super().__init__()
        units = sum(sizes)
        self.mu = nn.Parameter(torch.zeros(units))
        self.log_sigma = nn.Parameter(torch.full((units,), float(init_log_sigma)))
        self.generator = generator
        self.per_example = per_example
        self._sizes = list(sizes)
        self._drawn: dict[int, Tensor] = {}

    @property
    def folded(self) -> bool:
        """Tell whether the gates at hand are one draw for the whole batch."""
        return self.training and not self.per_example

    def begin(self, batch: int) -> None:
        """Draw the gates of one forward pass."""
        if self.training:
            shape = (batch if self.per_example else 1, self.mu.numel())
            theta = tln.draw(self.mu, self.log_sigma, shape, self.generator)
            if not self.per_example:
                theta = theta[0]
        else:
            theta = self.mean()
        firsts = torch.tensor([0, *self._sizes]).cumsum(0).tolist()
        self._drawn = dict(zip(firsts, torch.split(theta, self._sizes, dim=-1), strict=False))

    def theta(self, first: int, size: int) -> Tensor:
        """Return the gates of the class that starts at unit `first`, `[size]` or `[b, size]`."""
        drawn = self._drawn[first]
        assert drawn.shape[-1] == size  # classes are read whole
        return drawn

    def multiply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return the gated activations."""
        return gate_product(x, theta)

    def mean(self) -> Tensor:
        """Return E[θ], `[units]`."""
        return tln.mean(self.mu, self.log_sigma)

    def snr(self) -> Tensor:
        """Return E[θ] / sd[θ], `[units]`."""
        return tln.snr(self.mu, self.log_sigma)

    def kl(self) -> Tensor:
        """Return KL(q ‖ log-uniform) of every unit, `[units]` nats."""
        return tln.kl_to_log_uniform(self.mu, self.log_sigma)

    @torch.no_grad()
    def clip(self) -> None:
        """Keep (μ, log σ) in the range on which every function is finite."""
        self.mu.clamp_(*MU_RANGE)
        self.log_sigma.clamp_(*LOG_SIGMA_RANGE)
