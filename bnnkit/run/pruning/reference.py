"""What a slim net is compared with on held-out examples: the original, or the original trained on.

An original that was trained on these examples knows some of their labels by heart, and beside it
each round would be charged with having forgotten them. So the reference is then a full net that
has forgotten them too: the original, disturbed by noise as large as its weights, and trained
without these examples for as long and in the same way as the slim net, with nothing removed. What
it lacks of the original is judged on examples that all of them were trained on:

    rise = [error(slim) - error(reference)] on held-out examples
           + max(0, error(reference) - error(original)) on training examples

In other words: the rise on training examples, and by how much more the slim net does worse on
unseen examples than the reference does. A reference that fits its training examples less closely
than the original does worse on unseen ones by less, so the rise is rather over- than
underestimated; one that fits them more closely is no credit. The rise over the original itself is
an upper bound too, with a smaller interval: where that holds the budget, no reference is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from bnnkit.methods.forget import disturb
from bnnkit.metrics import sum_interval
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.evaluate import Predictions, compare
from bnnkit.run.pruning.held_out import HeldOut
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.learn import train_alone
from bnnkit.spec import Quantity

__all__ = ["Reference", "added"]


@dataclass(frozen=True)
class _Yardstick:
    """A reference on held-out examples, and its own rise over the original."""

    on_held: Predictions
    drift: Quantity


class Reference:
    """The net that held-out errors are compared with, one for each number of rounds that held.

    Args:
        job: The run.
        examples: What is trained on, and what decides.
        checkpoints: Where the state of each epoch goes.
    """

    def __init__(self, job: Job, examples: HeldOut, checkpoints: Checkpoints) -> None:
        self.job = job
        self.examples = examples
        self.checkpoints = checkpoints
        self.epochs = 0
        self._yardsticks: list[_Yardstick] = []
        self._model: nn.Module = job.teacher()
        self._original = self._predict(self._model, "the original")
        if examples.known:
            source = torch.Generator().manual_seed(job.config.train.seed)
            self._seen = examples.train.take(len(examples.held), source)
            self._before = self._predict(self._model, "the original on training data", seen=True)
            disturb(self._model, source)

    def rise(self, model: nn.Module, depth: int, epochs: int, name: str) -> Quantity:
        """Return how much worse a slim net is, in points of error: the tighter upper bound of two.

        Args:
            model: The slim net.
            depth: How many rounds made it.
            epochs: How long the last of them was.
            name: What the round is called.
        """
        after = self._predict(model, name)
        plain = compare(self._original, after)["error_rise"]
        budget = self.job.config.target.error_rise
        assert budget is not None
        if not self.examples.known or (plain.high is not None and plain.high <= budget):
            return plain
        yardstick = self._yardstick(depth, epochs)
        found = added(compare(yardstick.on_held, after)["error_rise"], yardstick.drift)
        return min(plain, found, key=lambda rise: math.inf if rise.high is None else rise.high)

    def _yardstick(self, depth: int, epochs: int) -> _Yardstick:
        """Return the reference of a number of rounds, trained where it has not been yet."""
        while len(self._yardsticks) < depth:
            number = len(self._yardsticks) + 1
            self._model = train_alone(
                self.job, self._model, range(epochs), self.examples.train, self.checkpoints,
                phase=f"reference-{number}", title=f"reference {number}, epoch",
            )  # fmt: skip
            self.epochs += epochs
            seen = self._predict(self._model, "the reference on training data", seen=True)
            self._yardsticks.append(
                _Yardstick(
                    self._predict(self._model, "the reference"),
                    compare(self._before, seen)["error_rise"],
                )
            )
        return self._yardsticks[depth - 1]

    def _predict(self, model: nn.Module, what: str, *, seen: bool = False) -> Predictions:
        split = self._seen if seen else self.examples.held
        return self.job.predict(model, split, f"measuring {what}")


def added(rise: Quantity, drift: Quantity) -> Quantity:
    """Add what a reference lost against the original to what is lost against the reference.

    The two are measured on different examples, so they are independent. A reference that is
    better than the original is no credit.
    """
    if drift.value <= 0 or rise.low is None or rise.high is None:
        return rise
    assert drift.low is not None
    assert drift.high is not None
    parts = (rise.value, rise.low, rise.high), (drift.value, drift.low, drift.high)
    low, high = sum_interval(*parts)
    return replace(rise, value=rise.value + drift.value, low=low, high=high)
