"""Priors of a layer's weights: what the posterior costs, and what of it is left.

Weights, means and variances are blocks [g, m, n, K]: groups, outputs, inputs, kernel positions
(`layers/bayesian_weights.py`). A row is what reads one input channel, a column is one output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnnkit.bayes.gaussian_ard import (
    fit_precisions,
    group_kl,
    log_alpha,
)
from bnnkit.layers.bayesian_weights import Blocks, DiagonalWeights, Forms, WeightPosterior

__all__ = ["GroupPrior", "Relevance", "SinglePrior"]

_FIRST_SWEEPS = 20


class Relevance(NamedTuple):
    """How much of each group of a layer is noise, and what closing it costs.

    Args:
        rows: log α of rows, `[g, 1, n, 1]`, or `[g, 1, n, K]` where kernel positions are groups.
        columns: log α of columns, `[g, m, 1, 1]`.
        row_nats: What is lost with an input channel, `[g, n]`.
        column_nats: What is lost with an output, `[g, m]`.
    """

    rows: Tensor
    columns: Tensor
    row_nats: Tensor
    column_nats: Tensor


class SinglePrior(nn.Module):
    """A prior with a term for each weight: log-uniform, or ARD at its best precision.

    A row or column is as relevant as its most relevant weight.

    Args:
        term: Maps means and log deviations `[*]` to nats `[*]`.
    """

    def __init__(self, term: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.term = term

    def kl(self, mu: Tensor, posterior: WeightPosterior, *, fit: bool = False) -> Tensor:
        """Return the sum of the terms, `[]` nats; there is nothing to fit."""
        assert isinstance(posterior, DiagonalWeights)  # the terms are of independent weights
        return self.term(mu, posterior.log_sigma.reshape(mu.shape)).sum()

    def relevance(self, mu: Tensor, posterior: WeightPosterior) -> Relevance:
        """Return the least log α of each row and column, and the nats of all their weights."""
        each = log_alpha(mu.square() / posterior.variance())
        rows, columns = each.amin((1, 3), keepdim=True), each.amin((2, 3), keepdim=True)
        return Relevance(rows, columns, *_nats(posterior.forms(mu)))

    def left(self, mu: Tensor, posterior: WeightPosterior, threshold: float) -> Tensor:
        """Return the weights with log α of at most the threshold, `[g, m, n, K]`."""
        return log_alpha(mu.square() / posterior.variance()) <= threshold


class GroupPrior(nn.Module):
    """Group ARD: w_ij ~ N(0, 1/(τ_i γ_j)), with the precisions that fit best.

    Args:
        mu: Means, `[g, m, n, K]`.
        posterior: The posterior around them, to which the precisions are fitted at once.
        groups: `rows` (τ), `columns` (γ), `both`, or `layer`: one precision for all weights.
        shared_over_kernel: One τ for each input channel, or one for each of its kernel positions.
    """

    def __init__(
        self, mu: Tensor, posterior: WeightPosterior, groups: str, *, shared_over_kernel: bool
    ) -> None:
        super().__init__()
        shape = Blocks(*mu.shape)
        self.groups = groups
        self.per_row = groups in ("rows", "both")
        self.per_column = groups in ("columns", "both")
        positions = 1 if shared_over_kernel else shape.kernel
        tau = (shape.groups, 1, shape.inputs, positions) if self.per_row else (1, 1, 1, 1)
        gamma = (shape.groups, shape.outputs, 1, 1) if self.per_column else (1, 1, 1, 1)
        self.shared_over_kernel = shared_over_kernel
        self.log_tau: Tensor
        self.log_gamma: Tensor
        self.register_buffer("log_tau", mu.new_zeros(tau))
        self.register_buffer("log_gamma", mu.new_zeros(gamma))
        with torch.no_grad():
            self._fit(mu.square() + posterior.variance(), _FIRST_SWEEPS)

    def _fit(self, second_moment: Tensor, sweeps: int = 1) -> None:
        """Set τ, then γ, to their best values given each other."""
        tau, gamma = fit_precisions(
            second_moment,
            self.log_tau,
            self.log_gamma,
            rows=self.groups != "columns",
            columns=self.per_column,
            sweeps=sweeps,
        )
        self.log_tau.copy_(tau)
        self.log_gamma.copy_(gamma)

    def kl(self, mu: Tensor, posterior: WeightPosterior, *, fit: bool = False) -> Tensor:
        """Return the divergence from the prior as it was last fitted, or is now, `[]` nats."""
        moment = mu.square() + posterior.variance()
        if fit:
            self._fit(moment)
        return group_kl(moment, posterior.log_det(), self.log_tau, self.log_gamma)

    def relevance(self, mu: Tensor, posterior: WeightPosterior) -> Relevance:
        """Return log α of each row, over the kernel where it is shared, and of each column."""
        _, m, n, kernel = mu.shape
        forms = posterior.forms(mu)
        rows = log_alpha(forms.rows, m)
        if self.shared_over_kernel:
            rows = log_alpha(forms.rows.sum(3, keepdim=True), m * kernel)
        return Relevance(rows, log_alpha(forms.columns, n * kernel), *_nats(forms))

    def left(self, mu: Tensor, posterior: WeightPosterior, threshold: float) -> Tensor:
        """Return the weights whose row and column, as far as they are groups, are relevant."""
        found = self.relevance(mu, posterior)
        mask = torch.ones_like(mu, dtype=torch.bool)
        if self.per_row:
            mask = mask & (found.rows <= threshold)
        if self.per_column:
            mask = mask & (found.columns <= threshold)
        return mask


def _nats(forms: Forms) -> tuple[Tensor, Tensor]:
    return 0.5 * forms.rows.sum((1, 3)), 0.5 * forms.columns.flatten(1)
