"""Automatic relevance determination with independent weights, one by one or by groups.

| symbol | in code | meaning |
|---|---|---|
| α* | `bayes.gaussian_ard.ard_kl` | 1 / (μ² + σ²), the best precision of one weight |
| τ_i, γ_j | `weight_priors.GroupPrior` | precisions of rows (inputs) and columns (outputs) |

`Ard` closes single weights with log α = log σ²/μ² above the threshold, and a row or column when no
weight of it is left. `GroupArd` closes whole rows or columns: what the prior of a group drives to
noise together. With `groups="layer"` it learns the prior's variance of each layer and closes
nothing.

References:
    V. Kharitonov, D. Molchanov, D. Vetrov, Variational dropout via empirical Bayes (2018).
"""

from __future__ import annotations

from torch import Tensor, nn

from bnnkit.bayes.gaussian_ard import ard_kl
from bnnkit.layers.bayesian_weights import DiagonalWeights
from bnnkit.layers.weight_priors import GroupPrior, SinglePrior
from bnnkit.methods.weight_posterior import Posterior, Prior, WeightMethod

__all__ = ["Ard", "GroupArd"]


class Ard(WeightMethod):
    """Independent weights, each with its own precision; arguments as of `WeightMethod`."""

    def _posterior(self, layer: nn.Module) -> Posterior:
        return DiagonalWeights(layer, self.config.init_log_sigma)

    def _prior(self, mu: Tensor, posterior: Posterior) -> Prior:
        return SinglePrior(ard_kl)


class GroupArd(WeightMethod):
    """Independent weights with precisions τ_i γ_j; arguments as of `WeightMethod`."""

    def _posterior(self, layer: nn.Module) -> Posterior:
        return DiagonalWeights(layer, self.config.init_log_sigma)

    def _prior(self, mu: Tensor, posterior: Posterior) -> Prior:
        config = self.config
        return GroupPrior(
            mu, posterior, config.groups, shared_over_kernel=config.shared_over_kernel
        )
