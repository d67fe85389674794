"""What removing a unit does to the loss, to first order: the gradient of its gate.

With a gate θ_c = 1 before all that reads unit c, closing it changes the loss of example n by
about −∂L_n/∂θ_c = −Σ (activation × gradient): the Taylor term of Molchanov et al. 2017 (eq. 6),
summed over the unit's activations as in Molchanov et al. 2019 (section 3.3, gates). The score is
its mean square over examples,

    s_c = E_n[(∂L_n/∂θ_c)²],

which is also the Fisher information of the gate: near a minimum, where the terms cancel in the
mean, half of it is the second-order rise of the loss (Theis et al. 2018, "Faster gaze prediction
with dense networks and Fisher pruning", eq. 8). It is in the same unit for all layers (nats²) and
needs no normalisation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.graph.attach import attach
from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.outputs import main_output
from bnnkit.graph.structure import Structure

__all__ = ["TaylorScores", "gate_gradients"]


class TaylorScores:
    """Collects the squared gate gradients of a model over batches.

    Args:
        structure: The classes to score.
    """

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._squares = torch.zeros(structure.n_units, dtype=torch.float64)
        self._examples = 0

    def accumulate(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Add a batch; the model runs in eval mode, and no gradient of its own is touched.

        Args:
            model: The trained model at full width.
            x: `[b, ...]` inputs, on the model's device.
            y: `[b]` class indices.
        """
        gradient = gate_gradients(model, self._structure, x, lambda _: y)
        self._squares += gradient.double().square().sum(0).cpu()
        self._examples += len(x)

    def scores(self) -> Tensor:
        """Return `[units]` the mean squared gradient, in nats²; not a number before any batch."""
        return (self._squares / self._examples).float()


def gate_gradients(
    model: nn.Module, structure: Structure, x: Tensor, labels: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return `[b, units]` the gradient of each example's loss by the gates, at gates of one.

    Args:
        model: The model at full width, which runs in eval mode; no gradient of its own is touched.
        structure: Its channel classes.
        x: `[b, ...]` inputs, on the model's device.
        labels: Returns the class indices `[b]` that the loss is taken at, from scores
            `[b, classes]`.
    """
    gates = _UnitGates(structure.n_units, x)
    with preserved_modes(model), torch.enable_grad(), attach(model, structure, gates):
        model.eval()  # else batch norm would mix the examples
        scores = main_output(model(x)).float()
        loss = F.cross_entropy(scores, labels(scores.detach()), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, gates.values)
    return gradient


class _UnitGates:
    """Gates of one for every example, whose gradients tell the examples apart."""

    folded = False

    def __init__(self, n_units: int, x: Tensor) -> None:
        self.values = torch.ones(len(x), n_units, device=x.device, requires_grad=True)

    def begin(self, batch: int) -> None:
        """Nothing to prepare."""

    def theta(self, first: int, size: int) -> Tensor:
        """Return `[batch, size]` ones."""
        return self.values[:, first : first + size]

    def multiply(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return the product."""
        return x * theta.to(x.dtype)
