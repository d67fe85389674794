"""Scores that look at the weights alone, or at nothing: what any evidence has to beat.

Each is a function of a trained model and its structure. A score is what is thought to be lost with
a unit; within a class it is divided by the class's mean, so that layers of different scale can be
compared over the whole net, as Torch-Pruning 1.6.1 does ("normalizer='mean'").
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError
from bnnkit.graph.structure import UNGATED, Structure

__all__ = ["bn_scale_scores", "magnitude_scores", "random_scores"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def magnitude_scores(model: nn.Module, structure: Structure) -> Tensor:
    """Return the squared L2 norm of everything that a unit owns.

    That is the filters of all its writers, the columns of all its readers and its batch-norm
    scales, each tensor summed, averaged over the tensors, and divided by the class's mean.

    Args:
        model: The trained model at full width.
        structure: Its channel classes.

    Returns:
        `[units]`, with mean 1 in every class.

    References:
        Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", section 3.3 (group sparsity).
    """
    score, tensors = torch.zeros(structure.n_units), torch.zeros(structure.n_units)
    for weight, axis, units in _owned(model, structure, (*_LAYERS, *_NORMS)):
        energy = weight.detach().float().square().cpu()
        _add(score, tensors, energy.transpose(0, axis).flatten(1).sum(1), units)
    return _normalised(score / tensors.clamp(min=1), structure)


def bn_scale_scores(model: nn.Module, structure: Structure) -> Tensor:
    """Return the size |γ| of each unit's batch-norm scales.

    Averaged over its norms, and divided by the class's mean.

    Args:
        model: The trained model at full width.
        structure: Its channel classes.

    Returns:
        `[units]`, with mean 1 in every class; infinite, and so kept, where a class has no norm.

    Raises:
        UsageError: No class has a batch norm.

    References:
        Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming".
    """
    score, norms = torch.zeros(structure.n_units), torch.zeros(structure.n_units)
    for weight, _, units in _owned(model, structure, _NORMS):
        _add(score, norms, weight.detach().float().abs().cpu().flatten(1).sum(1), units)
    if not bool(norms.any()):
        raise UsageError(
            "Scoring units by their batch-norm scales", "no batch norm with a scale",
            "there is nothing to read off", "Use --method magnitude.",
        )  # fmt: skip
    scores = _normalised(score / norms.clamp(min=1), structure)
    return scores.masked_fill(norms == 0, math.inf)


def random_scores(structure: Structure, generator: torch.Generator) -> Tensor:
    """Return uniform scores `[units]` in [0, 1): what the structure alone gives.

    Args:
        structure: The channel classes.
        generator: Source of the scores, on the CPU.
    """
    return torch.rand(structure.n_units, generator=generator)


def _owned(
    model: nn.Module, structure: Structure, kinds: tuple[type[nn.Module], ...]
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Yield each `weight` of these modules that units lie on, with the axis and its units."""
    for (name, axis), units in structure.slots.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "weight" and isinstance(module := model.get_submodule(path), kinds):
            weight = module.weight
            assert isinstance(weight, Tensor)
            # a vector is a matrix of one column
            yield (weight if weight.dim() > 1 else weight[:, None]), axis, units


def _add(score: Tensor, tensors: Tensor, values: Tensor, units: Tensor) -> None:
    """Add the values of one axis `[size]` to its units, and count the tensor once for each."""
    gated = units != UNGATED
    score.index_add_(0, units[gated], values[gated])
    tensors[torch.unique(units[gated])] += 1


def _normalised(score: Tensor, structure: Structure) -> Tensor:
    """Divide by the mean of each class; a class of zeros stays as it is."""
    out = score.clone()
    for c in structure.classes:
        mean = score[c.units].mean()
        if float(mean) > 0:
            out[c.units] /= mean
    return out
