"""Improved precision and recall of generated samples (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.metrics.generative.rows import check_widths, double_rows

__all__ = ["PRECISION", "RECALL", "precision_recall"]

PRECISION = "precision"
RECALL = "recall"


def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, *, block: int = 1000
) -> tuple[float, float]:
    """Return the share of fake samples near real ones, and of real samples near fake ones.

    Near a set is what lies in the ball around one of its members that reaches to the k-th nearest
    other member. Both shares grow with the size of the set that the balls are around: compare
    sets of the same sizes only. Repeated samples make balls of radius 0, so they cost recall.

    Args:
        real: Features of real samples `[n, d]`.
        fake: Features of generated samples `[m, d]`.
        k: Neighbours that a ball reaches to; less than n and m.
        block: Rows compared at once; memory is block x max(n, m) numbers.

    Returns:
        Precision and recall, in [0, 1].

    Raises:
        DataError: The widths differ, there are no k neighbours, or values are not finite.

    References:
        Kynkäänniemi et al., Improved precision and recall metric for assessing generative models
        (2019), eq. 1 and 2; the authors use k = 3.
    """
    real, fake = (double_rows(x, "precision and recall") for x in (real, fake))
    check_widths(real.shape[1], fake.shape[1], "precision and recall")
    if not 1 <= k < min(len(real), len(fake)) or block < 1:
        raise DataError(
            "Measuring the precision and recall",
            f"neighbour {k} of {len(real)} real and {len(fake)} generated samples",
            "each sample needs that many others",
        )
    centre = real.mean(0)  # small numbers leave small rounding errors in the squared distances
    real, fake = real - centre, fake - centre
    of_real, of_fake = _radii(real, k, block), _radii(fake, k, block)
    near_real = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    near_fake = []
    for rows, distances in _distances(real, fake, block):
        near_real |= (distances <= of_real[rows, None]).any(0)
        near_fake.append((distances <= of_fake).any(1))
    return float(near_real.double().mean()), float(torch.cat(near_fake).double().mean())


def _radii(x: Tensor, k: int, block: int) -> Tensor:
    """Return the squared distance of each row to its k-th nearest other row `[n]`."""
    nearest = []
    for _, distances in _distances(x, x, block):
        # the row itself is among its k + 1 nearest, at distance 0
        nearest.append(distances.topk(k + 1, dim=1, largest=False).values[:, -1])
    return torch.cat(nearest)


def _distances(x: Tensor, y: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of `x` and their squared distances to all of `y` `[block, m]`."""
    of_x, of_y = x.square().sum(1), y.square().sum(1)
    # what is below the rounding error of the longest rows is 0, so that equal rows are at 0
    error = x.shape[1] * torch.finfo(x.dtype).eps * (of_x.max() + of_y.max())
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        out = torch.addmm(of_y.expand(rows.stop - start, -1), x[rows], y.T, alpha=-2)
        out += of_x[rows, None]
        yield rows, F.threshold(out, float(error), 0.0, inplace=True)
