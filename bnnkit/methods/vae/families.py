"""The posterior family of a name, started from what the encoder says."""

from __future__ import annotations

from torch import Tensor

from bnnkit.bayes.posteriors import Diagonal, Either, FullRank, MatrixNormal, Posterior
from bnnkit.errors import UsageError
from bnnkit.methods.vae.flow_posterior import Flow
from bnnkit.spec.vae_refine import matrix_shape

__all__ = ["fall_back", "start"]


def start(family: str, mean: Tensor, log_sigma: Tensor) -> Posterior:
    """Return the member of a family that is nearest to N(mean, diag sigma²).

    Args:
        family: As in `RefineConfig`.
        mean: `[n, d]`.
        log_sigma: `[n, d]`.

    Raises:
        UsageError: The matrix of `mn:RxC` does not hold d latents.
    """
    shape = matrix_shape(family)
    if shape is not None:
        rows, columns = shape
        if rows * columns != mean.shape[-1]:
            raise UsageError(
                "Reading --family",
                f"{family!r}, {rows * columns} numbers, and {mean.shape[-1]} latents",
                "the matrix holds all latents",
                f"Name rows and columns whose product is {mean.shape[-1]}.",
            )
        return MatrixNormal.amortised(mean, log_sigma, rows, columns)
    if family == "full":
        return FullRank.amortised(mean, log_sigma)
    if family == "flow":
        return Flow.amortised(mean, log_sigma)
    return Diagonal(mean, log_sigma)


def fall_back(q: Posterior, amortised: Posterior, mask: Tensor) -> Posterior:
    """Return `q` where `mask` is true, and elsewhere the encoder's posterior.

    Of the same family where that holds the encoder's, else an `Either`.

    Args:
        q: Posteriors of n data.
        amortised: Those of the encoder.
        mask: `[n]`, boolean.
    """
    if type(q) is type(amortised):
        return q.where(mask, amortised)
    if isinstance(amortised, Diagonal):
        if isinstance(q, FullRank):
            return q.where(mask, FullRank.amortised(amortised.mean, amortised.log_sigma))
        if isinstance(q, Flow):
            return q.where(mask, Flow.amortised(amortised.mean, amortised.log_sigma))
    return Either(q, amortised, mask)
