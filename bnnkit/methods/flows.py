"""Normalising flows of zuko, with seeded weights: the one file that imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bnnkit.errors import UsageError

__all__ = ["affine_transforms", "spline_flow"]


def spline_flow(dim: int, transforms: int, hidden: tuple[int, ...], seed: int) -> nn.Module:
    """Return a neural spline flow of coupling layers.

    Args:
        dim: Coordinates, 2 or more.
        transforms: Spline transformations.
        hidden: Widths of their networks.
        seed: Seed of their weights; torch's own random state is kept.

    Raises:
        UsageError: zuko is not installed.

    References:
        C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, Neural spline flows (2019).
    """
    flows = _zuko("--family mixture")
    with _seeded(seed):
        flow: nn.Module = flows.NSF(
            dim, transforms=transforms, hidden_features=hidden, passes=2, randperm=dim > 2
        )
        return flow


def affine_transforms(
    kind: str, dim: int, context: int, transforms: int, hidden: tuple[int, ...], seed: int
) -> nn.ModuleList:
    """Return affine transformations of noise given a context, which start as the identity.

    Each, called with the context `[n, context]`, gives a transform whose `call_and_ladj` maps
    `[n, dim]` in one pass to values and log determinants of the Jacobian `[n]`.

    Args:
        kind: `iaf`, autoregressive in alternating orders, or `realnvp`, coupling layers with
            alternating masks.
        dim: Coordinates, 2 or more.
        context: Width of the context.
        transforms: Transformations.
        hidden: Widths of their networks.
        seed: Seed of their weights; torch's own random state is kept.

    Raises:
        UsageError: zuko is not installed.

    References:
        D. Kingma et al., Improving variational inference with inverse autoregressive flow (2016),
        eqs. 9-10; L. Dinh et al., Density estimation using Real NVP (2017), eqs. 7-8.
    """
    flows = _zuko("--posterior diag")
    parts: list[nn.Module] = []
    with _seeded(seed):
        for i in range(transforms):
            if kind == "iaf":
                order = torch.arange(dim) if i % 2 == 0 else torch.arange(dim).flip(0)
                part = flows.MaskedAutoregressiveTransform(
                    dim, context, order=order, hidden_features=hidden
                )
            else:
                mask = torch.arange(dim) % 2 == i % 2
                part = flows.GeneralCouplingTransform(
                    dim, context, mask=mask, hidden_features=hidden
                )
            for p in list(part.modules())[-1].parameters():  # the last layer of its network
                nn.init.zeros_(p)
            parts.append(part)
    return nn.ModuleList(parts)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA too
        yield


def _zuko(instead: str) -> Any:  # noqa: ANN401 - a module of an optional package
    """Return zuko's flows."""
    try:
        import zuko.flows
    except ImportError as error:
        raise UsageError(
            "Building a flow",
            "no package 'zuko'",
            "flows are built by it",
            f"Install it with pip install 'bnnkit[flows]', or use {instead}.",
        ) from error
    return zuko.flows
