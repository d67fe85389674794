"""Group ARD with a matrix-normal posterior, alone or with a diagonal added.

| symbol | in code | meaning |
|---|---|---|
| A, B | `bayesian_weights.MatrixNormalWeights` | triangular factors over inputs, outputs |
| d | `bayesian_weights.MatrixNormalDiagonalWeights` | deviations of the independent part |
| τ_i, γ_j | `weight_priors.GroupPrior` | precisions of rows (inputs) and columns (outputs) |

The equations, and the form of A for convolutions, are in `bayes/matrix_normal.py`. With
`groups="layer"` the prior has one precision for each layer, and nothing is closed.

References:
    C. Louizos, M. Welling, Structured and efficient variational deep learning with matrix Gaussian
    posteriors (2016).
"""

from __future__ import annotations

from torch import Tensor, nn

from bnnkit.layers.bayesian_weights import (
    MatrixNormalDiagonalWeights,
    MatrixNormalWeights,
)
from bnnkit.layers.weight_priors import GroupPrior
from bnnkit.methods.weight_posterior import Posterior, Prior, WeightMethod

__all__ = ["MatrixNormal", "MatrixNormalDiagonal"]


class MatrixNormal(WeightMethod):
    """Weights with covariance BBᵀ ⊗ AAᵀ; arguments as of `WeightMethod`."""

    def _posterior(self, layer: nn.Module) -> Posterior:
        return MatrixNormalWeights(layer, self.config.init_log_sigma)

    def _prior(self, mu: Tensor, posterior: Posterior) -> Prior:
        config = self.config
        return GroupPrior(
            mu, posterior, config.groups, shared_over_kernel=config.shared_over_kernel
        )


class MatrixNormalDiagonal(MatrixNormal):
    """Weights with covariance BBᵀ ⊗ AAᵀ + diag(d²); arguments as of `WeightMethod`."""

    def _posterior(self, layer: nn.Module) -> Posterior:
        return MatrixNormalDiagonalWeights(layer, self.config.init_log_sigma)
