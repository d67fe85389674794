"""Sparse variational dropout (Molchanov et al. 2017): a log-uniform prior on every weight.

| symbol | in code | meaning |
|---|---|---|
| θ, σ² | model's weights, `log_sigma` | q(w) = N(θ, σ²), the additive parametrisation, sect. 4.2 |
| α | `log_alpha` | σ² / θ²; a weight with log α > 3 is zero, sect. 5.1 |
| KL | `bayes.gaussian_ard.sparse_vd_kl` | eq. 14 |

Noise is drawn on the outputs of layers (sect. 4.1). A row or column is closed when no weight of it
is left: single weights are what the method removes.
"""

from __future__ import annotations

from torch import Tensor, nn

from bnnkit.bayes.gaussian_ard import sparse_vd_kl
from bnnkit.layers.bayesian_weights import DiagonalWeights
from bnnkit.layers.weight_priors import SinglePrior
from bnnkit.methods.weight_posterior import Posterior, Prior, WeightMethod

__all__ = ["SparseVd"]


class SparseVd(WeightMethod):
    """Independent weights under log-uniform priors; arguments as of `WeightMethod`."""

    def _posterior(self, layer: nn.Module) -> Posterior:
        return DiagonalWeights(layer, self.config.init_log_sigma)

    def _prior(self, mu: Tensor, posterior: Posterior) -> Prior:
        return SinglePrior(sparse_vd_kl)
