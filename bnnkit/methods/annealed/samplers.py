"""What approximates an energy: a chain of learned transitions, or a normalising flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnnkit.bayes.annealing import chain_elbo
from bnnkit.layers.annealed_chain import AnnealedChain, ChainPath
from bnnkit.layers.flow_posterior import FlowHead, planar_transforms
from bnnkit.methods.flows import affine_transforms, spline_flow

__all__ = ["Chain", "Draws", "Flow", "Sampler"]

_DIM = 2
_FLOW_WIDTHS = (32, 32)
_TRANSFORMS = {"planar": 16, "iaf": 6, "realnvp": 6, "nsf": 3}
_LogDensity = Callable[[Tensor], Tensor]


class Draws(NamedTuple):
    """Draws with their log weights.

    Args:
        z: `[n, 2]`.
        log_weight: Unnormalised, in nats `[n]`: their mean is a bound on log Z, and the mean of
            the exponentials is Z.
    """

    z: Tensor
    log_weight: Tensor


class Sampler(nn.Module):
    """N(0, s²) in the plane, and what turns its draws into those of the approximation.

    Args:
        spread: s.
    """

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def log_start(self, z: Tensor) -> Tensor:
        """Return log N(z | 0, s² I), `[*, 2]` to `[*]`."""
        squares = (z / self.spread).square().sum(-1)
        return -0.5 * squares - math.log(2 * math.pi * self.spread**2)

    def draws(self, count: int, log_f: _LogDensity, generator: torch.Generator) -> Draws:
        """Return draws, with a gradient.

        Args:
            count: n.
            log_f: The unnormalised target in nats, `[n, 2]` to `[n]`.
            generator: Source of random numbers.
        """
        raise NotImplementedError

    def _begin(self, count: int, generator: torch.Generator) -> Tensor:
        return self.spread * torch.randn(count, _DIM, generator=generator)


class Chain(Sampler):
    """Hierarchical variational inference: T transitions from N(0, s²).

    Args:
        spread: s.
        transitions: T.
        hidden: Width of their networks.
        generator: Source of initial weights.
    """

    def __init__(
        self, spread: float, transitions: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__(spread)
        self.transitions = transitions
        self.chain = AnnealedChain(_DIM, transitions, hidden, generator=generator)

    def walk(self, count: int, generator: torch.Generator, *, detach: bool = False) -> ChainPath:
        """Return `count` walks; with `detach` no gradient passes from a transition to others."""
        z = self._begin(count, generator)
        noise = torch.randn(self.transitions, count, _DIM, generator=generator)
        path: ChainPath = self.chain(z, self.log_start(z), noise, detach=detach)
        return path

    def draws(self, count: int, log_f: _LogDensity, generator: torch.Generator) -> Draws:
        """Return ends of walks, whose weights are those of the extended space."""
        path = self.walk(count, generator)
        end = path.z[-1]
        log_weight = chain_elbo(log_f(end), path.log_start, path.log_forward, path.log_reverse)
        return Draws(end, log_weight)


class Flow(Sampler):
    """A normalising flow from N(0, s²).

    Args:
        spread: s.
        kind: `planar`, `iaf`, `realnvp` or `nsf` (neural splines, by zuko).
        seed: Seed of initial weights; torch's own random state is kept.

    Raises:
        UsageError: zuko is not installed.
    """

    def __init__(self, spread: float, kind: str, seed: int) -> None:
        super().__init__(spread)
        count = _TRANSFORMS[kind]
        self.head: FlowHead | None = None
        self.splines: nn.Module | None = None
        if kind == "nsf":
            self.splines = spline_flow(_DIM, count, _FLOW_WIDTHS, seed)
        elif kind == "planar":
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                self.head = FlowHead(planar_transforms(_DIM, 1, count))
        else:
            self.head = FlowHead(affine_transforms(kind, _DIM, 1, count, _FLOW_WIDTHS, seed))

    def draws(self, count: int, log_f: _LogDensity, generator: torch.Generator) -> Draws:
        """Return draws of the flow."""
        start = self._begin(count, generator)
        if self.splines is not None:
            z, ladj = self.splines().transform.inv.call_and_ladj(start)
        else:
            assert self.head is not None
            z, ladj = self.head(start, start.new_ones(count, 1))  # a context that is always 1
        return Draws(z, log_f(z) - self.log_start(start) + ladj)
