r"""Heads that make an encoder's Gaussian richer: correlations from the encoder's features.

An encoder gives a mean m and log sigma s for each latent. A head reads the features beside them
and adds only what the family lacks:

=======  ==================================  ===================================================
family   z                                   from the features
=======  ==================================  ===================================================
`diag`   m + eˢ ε                            nothing
`mn`     M + A X Bᵀ, read as R x C           strictly lower parts of A [R, R] and B [C, C]
`full`   m + diag(eˢ) (I + L) ε              the strictly lower part L [d, d]
=======  ==================================  ===================================================

The scales of A and B are the nearest to s (`MatrixNormal.amortised`). The last layers start at
zero, so that `full` starts as the encoder's own Gaussian, and `mn` as the nearest one. Their
outputs are divided by the root of the number of features: a step of Adam moves all weights of an
entry at once, and hundreds of entries that jump add more variance than they explain.

References:
    M. Rudnev and D. Kropotov, matrix-normal posteriors of latent variables; C. Louizos and
    M. Welling, Structured and efficient variational deep learning with matrix Gaussian posteriors
    (2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnkit.bayes.posteriors.diagonal import Diagonal
from bnnkit.bayes.posteriors.full import FullRank
from bnnkit.bayes.posteriors.matrix_normal import MatrixNormal

__all__ = ["DiagonalHead", "FullHead", "MatrixNormalHead", "strictly_lower"]


def strictly_lower(entries: Tensor, size: int, places: Tensor | None = None) -> Tensor:
    """Return matrices with these entries below the diagonal, row by row, and 0 elsewhere.

    Args:
        entries: `[n, size (size - 1) / 2]`.
        size: Rows, and columns.
        places: Where they stand in a flat matrix, as of `_places`.

    Returns:
        `[n, size, size]`.

    >>> strictly_lower(torch.tensor([[1.0, 2.0, 3.0]]), 3)[0]
    tensor([[0., 0., 0.],
            [1., 0., 0.],
            [2., 3., 0.]])
    """
    places = _places(size).to(entries.device) if places is None else places
    zeros = entries.new_zeros(len(entries), size * size)
    matrices: Tensor = zeros.index_copy(1, places, entries).reshape(-1, size, size)
    return matrices


def _places(size: int) -> Tensor:
    """Return the places below the diagonal of a flat matrix, row by row."""
    rows, columns = torch.tril_indices(size, size, -1)
    places: Tensor = rows * size + columns
    return places


class DiagonalHead(nn.Module):
    """The encoder's own Gaussian."""

    def forward(self, mean: Tensor, log_sigma: Tensor, features: Tensor) -> Diagonal:
        """Return the posteriors; see `MatrixNormalHead.forward`."""
        return Diagonal(mean, log_sigma)


class MatrixNormalHead(nn.Module):
    """MN(M, A Aᵀ, B Bᵀ) of latents that are read as a matrix, row by row.

    Args:
        features: Width of the features.
        rows: R.
        columns: C.
    """

    def __init__(self, features: int, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self._entries = rows * (rows - 1) // 2, columns * (columns - 1) // 2
        self.scale = features**-0.5
        self.lower = _zeroed(features, sum(self._entries))
        self.row_places: Tensor
        self.column_places: Tensor
        self.register_buffer("row_places", _places(rows), persistent=False)
        self.register_buffer("column_places", _places(columns), persistent=False)

    def forward(self, mean: Tensor, log_sigma: Tensor, features: Tensor) -> MatrixNormal:
        """Return the posteriors of a batch.

        Args:
            mean: `[n, d]`.
            log_sigma: `[n, d]`.
            features: `[n, f]`.
        """
        start = MatrixNormal.amortised(mean, log_sigma, self.rows, self.columns)
        first, second = self.lower(features * self.scale).split(self._entries, 1)
        return MatrixNormal(
            mean,
            strictly_lower(first, self.rows, self.row_places),
            start.row_log_diagonal,
            strictly_lower(second, self.columns, self.column_places),
            start.column_log_diagonal,
        )


class FullHead(nn.Module):
    """A Gaussian with all correlations.

    Args:
        features: Width of the features.
        latent: d.
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.scale = features**-0.5
        self.lower = _zeroed(features, latent * (latent - 1) // 2)
        self.places: Tensor
        self.register_buffer("places", _places(latent), persistent=False)

    def forward(self, mean: Tensor, log_sigma: Tensor, features: Tensor) -> FullRank:
        """Return the posteriors; see `MatrixNormalHead.forward`."""
        entries = self.lower(features * self.scale)
        lower = strictly_lower(entries, self.latent, self.places)
        return FullRank(mean, lower, log_sigma)


def _zeroed(features: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(features, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
