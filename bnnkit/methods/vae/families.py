"""The posterior family of a name, started from the encoder's posterior or a trained one."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Diagonal, Either, FullRank, MatrixNormal, Posterior
from bnnkit.errors import UsageError
from bnnkit.methods.vae.flow_posterior import Flow
from bnnkit.spec.vae_refine import matrix_shape

__all__ = ["as_diagonal", "as_full", "fall_back", "start"]


def start(family: str, q: Posterior) -> Posterior:
    """Return the member of a family that is nearest to a posterior: itself, where it is one.

    Args:
        family: As in `RefineConfig`.
        q: Where to start, of n data; of a diagonal family and of a matrix normal its moments
            count.

    Raises:
        UsageError: The matrix of `mn:RxC` does not hold d latents.
    """
    if family == "full":
        return as_full(q)
    plain = as_diagonal(q)
    shape = matrix_shape(family)
    if shape is not None:
        _check_matrix(family, shape, plain.mean.shape[-1])
        nearest = MatrixNormal.amortised(plain.mean, plain.log_sigma, *shape)
        return q if _same_form(q, nearest) else nearest
    if family == "flow":
        return Flow.amortised(plain.mean, plain.log_sigma)
    return plain


def _check_matrix(family: str, shape: tuple[int, int], latent: int) -> None:
    rows, columns = shape
    if rows * columns != latent:
        raise UsageError(
            "Reading --family",
            f"{family!r}, {rows * columns} numbers, and {latent} latents",
            "the matrix holds all latents",
            f"Name rows and columns whose product is {latent}.",
        )


@singledispatch
def as_diagonal(q: Posterior) -> Diagonal:
    """Return the Gaussian of independent latents with the moments of a posterior."""
    mean, sigma = q.marginals()
    return Diagonal(mean, sigma.log())


@as_diagonal.register
def _(q: Diagonal) -> Diagonal:
    return q


@singledispatch
def as_full(q: Posterior) -> FullRank:
    """Return a Gaussian as one with a full covariance; of other posteriors, their moments."""
    plain = as_diagonal(q)
    return FullRank.amortised(plain.mean, plain.log_sigma)


@as_full.register
def _(q: FullRank) -> FullRank:
    return q


@as_full.register
def _(q: MatrixNormal) -> FullRank:
    a, b = q.factors()
    factor = torch.einsum("nij,nkl->nikjl", a, b)  # of AAᵀ ⊗ BBᵀ, latents row by row
    return FullRank.from_factor(q.mean, factor.flatten(3, 4).flatten(1, 2))


def fall_back(q: Posterior, amortised: Posterior, mask: Tensor) -> Posterior:
    """Return `q` where `mask` is true, and elsewhere the posterior that it started from.

    Of the same family where that holds it, else an `Either`.

    Args:
        q: Posteriors of n data.
        amortised: Those that they started from.
        mask: `[n]`, boolean.
    """
    if _same_form(q, amortised):
        return q.where(mask, amortised)
    if isinstance(amortised, Diagonal):
        if isinstance(q, FullRank):
            return q.where(mask, FullRank.amortised(amortised.mean, amortised.log_sigma))
        if isinstance(q, Flow):
            return q.where(mask, Flow.amortised(amortised.mean, amortised.log_sigma))
    return Either(q, amortised, mask)


def _same_form(q: Posterior, other: Posterior) -> bool:
    """Tell whether two posteriors are of one family with the same sizes."""
    if type(q) is not type(other):
        return False
    pairs = zip(q.parameters(), other.parameters(), strict=True)
    return all(a.shape == b.shape for a, b in pairs)
