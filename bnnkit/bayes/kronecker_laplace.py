r"""What a group of columns is worth to a matrix whose posterior is matrix normal.

Around trained weights W `[out, columns]` the loss per example rises, to second order, by

.. math:: \tfrac12 \operatorname{tr}(\Gamma \, D A D^T)

for a change D, where A is the second moment of the layer's inputs and Γ that of the gradients at
its outputs: the Kronecker-factored Fisher information (Martens and Grosse 2015; Grosse and Martens
2016 for convolutions), which makes the Laplace posterior a matrix normal distribution. If the
columns S are set to zero and all others move to where the posterior has its mean then, the rise is

.. math:: \tfrac12 \operatorname{tr}(\Gamma \, W_S [(A^{-1})_{SS}]^{-1} W_S^T),
   \qquad W \leftarrow W - W_S [(A^{-1})_{SS}]^{-1} (A^{-1})_{S,:}

(optimal brain surgery, Hassibi and Stork 1993, for groups: van der Ouderaa et al. 2024, "The LLM
Surgeon"). Conditioning goes on from there: the precision of what is left is a Schur complement.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ColumnPosterior"]


class ColumnPosterior:
    """A matrix-normal posterior of which groups of columns are set to zero, one after another.

    Args:
        weight: `[out, columns]` the mean.
        inputs: `[columns, columns]` A, positive semi-definite.
        gradients: `[out, out]` Γ, positive semi-definite.
        groups: `[units, m]` the columns of each unit.
        damping: What is added to the diagonal of A, as a share of its mean: a prior precision.
    """

    def __init__(
        self,
        weight: Tensor,
        inputs: Tensor,
        gradients: Tensor,
        groups: Tensor,
        *,
        damping: float = 1e-3,
    ) -> None:
        a = inputs.double().clone()
        a.diagonal().add_((damping * a.diagonal().mean()).clamp(min=1e-12))
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(a))
        # tr(Γ X Xᵀ) = ‖R X‖² for a root R of Γ: taken once, the losses need no further Γ
        values, vectors = torch.linalg.eigh(gradients.double())
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
        self.weight = root @ weight.double()
        self.groups = groups

    def losses(self, units: Tensor) -> Tensor:
        """Return `[n]` the rise of the loss in nats if one unit alone goes, for each of some.

        Args:
            units: `[n]` which have not gone.
        """
        columns = self.groups[units]
        block = self.inverse[columns[:, :, None], columns[:, None, :]]
        w = self.weight[:, columns].transpose(0, 1)  # [n, out, m]
        rises: Tensor = 0.5 * (w * torch.linalg.solve(block, w.mT).mT).sum((1, 2))
        return rises

    def remove(self, units: Tensor) -> float:
        """Set the columns of some units to zero, let all others follow, and return the rise.

        Args:
            units: `[n]` which have not gone.
        """
        columns = self.groups[units].reshape(-1)
        across, gone = self.inverse[columns], self.weight[:, columns]
        block = across[:, columns]
        rise = 0.5 * float((gone * torch.linalg.solve(block, gone.T).T).sum())
        gain = torch.linalg.solve(block, across)  # [S, columns]
        self.weight = self.weight - gone @ gain
        self.weight[:, columns] = 0
        self.inverse = self.inverse - across.T @ gain
        return rise
