"""Every way to decide, by name: what learns how much to remove, and what only ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor

from bnnkit.methods.ard import Ard, GroupArd
from bnnkit.methods.base import Method, Ranking, Setting
from bnnkit.methods.controls import bn_scale_scores, magnitude_scores, random_scores
from bnnkit.methods.laplace import LaplaceEvidence
from bnnkit.methods.matrix_normal import MatrixNormal, MatrixNormalDiagonal
from bnnkit.methods.sbp import Sbp
from bnnkit.methods.sparse_vd import SparseVd
from bnnkit.methods.taylor import TaylorScores
from bnnkit.methods.weight_posterior import WeightMethod

__all__ = ["METHODS", "RANKINGS", "Batches"]

Batches = Iterable[tuple[Tensor, Tensor]]

_TAYLOR_BATCHES = 100
"""Batches that the gate gradients are collected over; their order does not change after fewer."""

_LAPLACE_EXAMPLES = 2048
"""Examples that the factors of the Fisher information are taken from."""


def _on_weights(kind: type[WeightMethod]) -> Callable[[Setting], Method]:
    def make(setting: Setting) -> Method:
        return kind(
            setting.structure,
            setting.config.posterior,
            setting.n_examples,
            setting.generator,
            model=setting.model,
            round_to=setting.round_to,
            device=setting.device,
            aim=setting.aim,
        )

    return make


def _taylor(setting: Setting, batches: Batches) -> Ranking:
    found = TaylorScores(setting.structure)
    for x, y in islice(batches, _TAYLOR_BATCHES):
        found.accumulate(setting.model, x.to(setting.device), y.to(setting.device))
    return Ranking(found.scores())


def _laplace(setting: Setting, batches: Batches) -> Ranking:
    generator = torch.Generator().manual_seed(setting.config.train.seed)
    found = LaplaceEvidence(setting.model, setting.structure, generator)
    seen = 0
    for x, _ in batches:
        found.accumulate(x.to(setting.device))
        seen += len(x)
        if seen >= _LAPLACE_EXAMPLES:
            break
    costs = found.costs()
    return Ranking(costs, cumulative=True, evidence={"loss": costs})


METHODS: dict[str, Callable[[Setting], Method]] = {
    "sbp": Sbp.of,
    "sparse-vd": _on_weights(SparseVd),
    "ard": _on_weights(Ard),
    "group-ard": _on_weights(GroupArd),
    "mn": _on_weights(MatrixNormal),
    "mn-diag": _on_weights(MatrixNormalDiagonal),
}
"""Methods that learn, from a `Setting`."""

RANKINGS: dict[str, Callable[[Setting, Batches], Ranking]] = {
    "laplace": _laplace,
    "magnitude": lambda setting, _: Ranking(magnitude_scores(setting.model, setting.structure)),
    "taylor": _taylor,
    "bn-scale": lambda setting, _: Ranking(bn_scale_scores(setting.model, setting.structure)),
    "random": lambda setting, _: Ranking(random_scores(setting.structure, setting.generator)),
}
"""What ranks the units of a trained model, from a `Setting` and batches."""
