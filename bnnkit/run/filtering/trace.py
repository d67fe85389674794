"""How the filter improves while its discriminator is trained (Neklyudov et al. 2019, figure 3)."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

from bnnkit.errors import DataError, TrainingError
from bnnkit.methods.mh.scores import ConvScore, score_images
from bnnkit.metrics import auroc_interval
from bnnkit.run.filtering.chains import run_chains
from bnnkit.run.filtering.discriminate import Watch
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.measure import Seen, class_score, distances, see_reference, select

__all__ = ["Trace"]

_LOOKS, _RUNS, _BANK, _HELD = 8, 5, 20_000, 4_000


class Trace(Watch):
    """Filters a part of the bank with a net at some steps of its training.

    Args:
        job: The run.
        bank: The proposals; the first 20,000 are filtered.
        seen: The proposals as the judges see them.
    """

    def __init__(self, job: Job, bank: Bank, seen: Seen) -> None:
        size = min(_BANK, len(bank))
        labels = None if bank.labels is None else bank.labels[:size]
        self._job, self._bank = job, Bank(bank.latents[:size], bank.images[:size], labels)
        self._seen = select(seen, torch.arange(size))
        self._reference = see_reference(job.judges, job.test.images)
        self._held = job.held.take(torch.arange(min(_HELD, len(job.held))))
        self.rows: list[dict[str, Any]] = []

    def at(self, net: nn.Module, step: int, steps: int, loss: float) -> None:
        """Look at the net where the step is one of about eight, evenly apart in its logarithm."""
        looks = {max(1, round(steps ** (i / (_LOOKS - 1)))) for i in range(_LOOKS)}
        if step not in looks:
            return
        config = self._job.config
        score = ConvScore(net.eval(), config.floor if config.loss == "ub" else None)
        bank = score_images(score, self._bank.images, self._bank.labels)
        held = score_images(score, self._held.images, self._job.labels_of(self._held))
        net.train()
        try:
            self.rows.append(self._row(step, loss, bank, held))
        except (TrainingError, DataError):
            return  # chains do not move yet, or a rare class has no proposal in this part

    def _row(
        self, step: int, loss: float, bank: torch.Tensor, held: torch.Tensor
    ) -> dict[str, Any]:
        """Run five sets of chains and take mean and deviation of what they give."""
        found: dict[str, list[float]] = {}
        scores: list[float] = []
        for i in range(_RUNS):
            rows, _ = run_chains(
                self._job, self._bank, bank, held, min(5000, len(self._bank)), 100 + i
            )
            seen = select(self._seen, rows)
            for name, value in distances(seen, self._reference).items():
                found.setdefault(name, []).append(value)
            if seen.probabilities is not None:
                scores.append(class_score(seen.probabilities)[0])
        row: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "auc": 100 * auroc_interval(bank[: len(held)], held)["value"],
            "runs": _RUNS,
            "fid": {name: _spread(values) for name, values in found.items()},
        }
        return row | ({"is": _spread(scores)} if scores else {})


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
