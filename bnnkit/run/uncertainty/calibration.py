"""Temperatures by labels that the net was not judged on, and the judging by the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.io.data import Split
from bnnkit.io.datasets.subsets import stratified_rows
from bnnkit.methods.temperature import fit_temperature
from bnnkit.run.uncertainty.answers import Answers
from bnnkit.spec.config import parse_calibration_split

__all__ = ["Calibration", "plan_calibration"]


@dataclass(frozen=True)
class Calibration:
    """Which inputs a temperature is fitted to, and which are judged.

    Args:
        place: `cross`, `test`, `train`, or `none` where nothing is calibrated.
        share: Of the part that is set aside.
        measured: The inputs on which everything is measured.
        train: The training inputs that statistics are fitted on.
        held: The inputs set aside for the temperature; None for `cross`.
        halves: For `cross`: rows of `measured` in two halves of each class.
    """

    place: str
    share: float
    measured: Split
    train: Split
    held: Split | None = None
    halves: tuple[Tensor, Tensor] | None = None

    def temper(self, answers: Answers, held: Answers | None) -> tuple[Answers, float]:
        """Return tempered answers, and the temperature that a delivered net gets.

        With `cross` each half is judged at the temperature of the other, and what is delivered
        has the temperature of all labels.

        Args:
            answers: On `measured`.
            held: The same net's on `held`; None for `cross`.
        """
        if self.halves is None:
            assert held is not None  # there is one where there are no halves
            temperature = fit_temperature(held.log_probs, held.labels)
            return answers.at_temperature(temperature), temperature
        out = answers.log_probs.clone()
        for fitted, judged in (self.halves, self.halves[::-1]):
            part = answers.select(fitted)
            temperature = fit_temperature(part.log_probs, part.labels)
            out[judged] = answers.select(judged).at_temperature(temperature).log_probs
        whole = fit_temperature(answers.log_probs, answers.labels)
        return replace(answers, log_probs=out), whole


def plan_calibration(text: str, train: Split, test: Split, seed: int) -> Calibration:
    """Set inputs aside as `--calibration-split` says.

    Args:
        text: `cross`, `test:SHARE` or `train:SHARE`.
        train: The training part.
        test: The test part.
        seed: Seed of the draw.

    Raises:
        UsageError: The text is none of these.
    """
    place, share = parse_calibration_split(text)
    generator = torch.Generator().manual_seed(seed)
    if place == "train":
        rows = torch.randperm(len(train), generator=generator)
        count = max(1, round(share * len(train)))
        return Calibration(
            place, share, test, train.select(rows[count:]), train.select(rows[:count])
        )
    stays, held_rows = stratified_rows(test.labels, share, generator)
    if place == "cross":
        return Calibration(place, share, test, train, halves=(stays, held_rows))
    return Calibration(place, share, test.select(stays), train, test.select(held_rows))
