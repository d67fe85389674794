r"""A chain of learned stochastic transitions, with learned transitions back.

Forward, :math:`q_t(z_t | z_{t-1}, c) = N(\mu_t, \operatorname{diag} \sigma_t^2)` with a gate g
between the old place and a new one,

.. math:: \mu_t = (1 - g) \odot z_{t-1} + g \odot m, \qquad (m, g, \sigma) = \mathrm{net}_t(z_{t-1}, c),

and :math:`r_t(z_{t-1} | z_t, c)` backward in the same form. At the start gates are nearly shut and
deviations small, so that an untrained chain hardly moves. The T networks of a direction are one
stack of matrices: what does not wait for the state before is computed for all of them at once.

References:
    C.-W. Huang, S. Tan, A. Lacoste, A. Courville, Improving explorability in variational inference
    with annealed variational objectives (2018), section 3 and appendix C.
"""  # noqa: E501

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AnnealedChain", "ChainPath", "GatedGaussians"]

_LOG_2PI = math.log(2 * math.pi)
_LEAST = 1e-3  # deviations below it would make densities of float32 meaningless
_GATE = -2.0  # sigmoid: .12
_SCALE = 0.3
_ALL = slice(None)


class ChainPath(NamedTuple):
    """One walk through the chain for every datum.

    Args:
        z: The states z_0 to z_T, each `[*, d]`.
        log_forward: log q_t(z_t | z_{t-1}, c) in nats, `[T, *]`.
        log_reverse: log r_t(z_{t-1} | z_t, c) in nats, `[T, *]`.
        log_start: log q_0(z_0), `[*]`, as it was given.
    """

    z: list[Tensor]
    log_forward: Tensor
    log_reverse: Tensor
    log_start: Tensor


class GatedGaussians(nn.Module):
    """T Gaussians around gated means: the transitions of one direction.

    Args:
        dim: d.
        transitions: T.
        hidden: Width of the two hidden layers.
        context: Width of the context, 0 for none.
        generator: Source of the initial weights.
    """

    def __init__(
        self, dim: int, transitions: int, hidden: int, context: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        widths = (dim + context, hidden, hidden, 3 * dim)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(widths):
            bound = 1 / math.sqrt(inputs)
            for into, shape in (
                (self.weights, (transitions, inputs, outputs)),
                (self.biases, (transitions, 1, outputs)),
            ):
                into.append(bound * (2 * torch.rand(shape, generator=generator) - 1))
        with torch.no_grad():
            self.weights[-1].mul_(0.1)
            self.biases[-1][..., dim : 2 * dim] = _GATE
            self.biases[-1][..., 2 * dim :] = math.log(math.expm1(_SCALE))

    def forward(
        self, z: Tensor, context: Tensor | None = None, at: slice = _ALL
    ) -> tuple[Tensor, Tensor]:
        """Return means and deviations at states.

        Args:
            z: States, a row of them for each transition, `[T, n, d]`.
            context: `[n, c]`, or None.
            at: Which transitions the rows are of.

        Returns:
            Each `[T, n, d]`.
        """
        x = z if context is None else torch.cat([z, context.expand(len(z), -1, -1)], -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[at], x, weight[at])
            x = F.silu(x) if i < last else x
        place, gate, scale = x.chunk(3, -1)
        return torch.lerp(z, place, gate.sigmoid()), F.softplus(scale) + _LEAST


class AnnealedChain(nn.Module):
    """T gated Gaussian transitions forward, and as many back.

    Args:
        dim: d, coordinates of a state.
        transitions: T.
        hidden: Width of the two hidden layers of each transition.
        context: Width of the context, such as features of an encoder; 0 for none.
        generator: Source of the initial weights; a generator of seed 0 if None.
    """

    def __init__(
        self,
        dim: int,
        transitions: int,
        hidden: int,
        *,
        context: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        draw = generator or torch.Generator().manual_seed(0)
        self.transitions = transitions
        self.ahead = GatedGaussians(dim, transitions, hidden, context, draw)
        self.back = GatedGaussians(dim, transitions, hidden, context, draw)

    def forward(
        self,
        start: Tensor,
        log_start: Tensor,
        noise: Tensor,
        context: Tensor | None = None,
        *,
        detach: bool = False,
    ) -> ChainPath:
        """Walk.

        Args:
            start: z_0, `[*, d]`.
            log_start: log q_0(z_0) in nats, `[*]`; handed through.
            noise: Standard normal draws, `[T, *, d]`.
            context: c, `[*, c]`.
            detach: Whether the gradient stops at the state before each transition, as the
                annealed objectives ask; at the start as well.

        Returns:
            States and log densities.
        """
        d, lead = start.shape[-1], start.shape[:-1]
        flat = noise.reshape(self.transitions, -1, d)
        z_0 = start.reshape(1, -1, d)
        c = None if context is None else context.reshape(z_0.shape[1], -1)
        if detach:
            with torch.no_grad():
                walked, _ = self._walk(z_0, flat, c)
            before = torch.cat([z_0.detach(), walked[:-1]])
            mean, scale = self.ahead(before, c)  # the same walk, each transition on its own
            after = mean + scale * flat
        else:
            after, scale = self._walk(z_0, flat, c)
            before = torch.cat([z_0, after[:-1]])
        log_forward = _log_standard(flat) - scale.log().sum(-1)
        mean, scale = self.back(after, c)
        log_reverse = _log_standard((before - mean) / scale) - scale.log().sum(-1)
        states = [start, *(z.reshape(*lead, d) for z in after)]
        shape = (self.transitions, *lead)
        return ChainPath(states, log_forward.reshape(shape), log_reverse.reshape(shape), log_start)

    def _walk(self, z: Tensor, noise: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the states z_1 to z_T and the deviations that they were drawn with."""
        states, scales = [], []
        for t in range(self.transitions):
            mean, scale = self.ahead(z, context, slice(t, t + 1))
            z = mean + scale * noise[t]
            states.append(z)
            scales.append(scale)
        return torch.cat(states), torch.cat(scales)


def _log_standard(e: Tensor) -> Tensor:
    """Return log N(e | 0, I), `[*, d]` to `[*]`."""
    return -0.5 * (e.square().sum(-1) + e.shape[-1] * _LOG_2PI)
