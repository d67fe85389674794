"""The epochs of `vae-fit`: shuffled batches, a look at held-out data, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import TrainingError
from bnnkit.run.checkpoints import Checkpoints, TrainState
from bnnkit.run.generative.loop import Learner
from bnnkit.run.loop import seeded
from bnnkit.run.progress import Progress
from bnnkit.spec.vae_fit import VaeFitConfig

__all__ = ["Fitted", "fit_epochs"]

_PHASE = "vae-fit"


@dataclass(frozen=True)
class Fitted:
    """How a training ended.

    Args:
        epochs: Epochs done.
        kept: Epoch whose weights are kept.
        stopped: Whether it stopped before its last epoch.
    """

    epochs: int
    kept: int
    stopped: bool


@dataclass
class _Best:
    """The weights with the best bound on held-out data so far."""

    epoch: int = 0
    bound: float = -math.inf
    weights: dict[str, Any] | None = None


def fit_epochs(
    learner: Learner,
    rows: Tensor,
    draw: Callable[[Tensor, torch.Generator], Tensor],
    validate: Callable[[], float] | None,
    config: VaeFitConfig,
    checkpoints: Checkpoints,
    progress: Progress,
) -> Fitted:
    """Train, saving the state after each epoch; a resumed run equals an unbroken one.

    With held-out data, the weights of the epoch with the best bound on them are kept.

    Args:
        learner: What learns.
        rows: Training data `[n, ...]`.
        draw: What the learner reads of a batch of them, such as binarised pixels.
        validate: Bound on held-out data in nats, with the same noise at every call; or None.
        config: Epochs, batch size, patience, seed.
        checkpoints: Where states go.
        progress: Who is told.

    Raises:
        TrainingError: A loss is not a number, or memory ran out.
    """
    best, start = _Best(), 0
    if (state := checkpoints.load(_PHASE)) is not None:
        learner.restore(dict(state.model), dict(state.optimiser))
        start, best = state.epoch, _Best(**state.carrier)
    done = start
    for epoch in range(start, config.epochs):
        if _is_over(best, epoch, config):
            break
        began = time.perf_counter()
        row = _epoch(learner, rows, draw, config, epoch, progress)
        if validate is not None:
            row["validation"] = validate()
            if row["validation"] > best.bound:
                best = _Best(epoch + 1, row["validation"], _copied(learner.state()[0]))
        seconds = time.perf_counter() - began
        checkpoints.log({"epoch": float(epoch + 1), **row, "lr": config.lr, "seconds": seconds})
        weights, optimisers = learner.state()
        checkpoints.save(TrainState(_PHASE, epoch + 1, weights, vars(best), optimisers))
        done = epoch + 1
    if best.weights is None:
        return Fitted(done, done, False)
    learner.restore(best.weights, learner.state()[1])
    return Fitted(done, best.epoch, done < config.epochs)


def _is_over(best: _Best, epoch: int, config: VaeFitConfig) -> bool:
    return config.patience is not None and epoch - best.epoch >= config.patience


def _copied(weights: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of nested state dicts."""
    return {
        key: _copied(value)
        if isinstance(value, dict)
        else value.detach().clone()
        if isinstance(value, Tensor)
        else value
        for key, value in weights.items()
    }


def _epoch(
    learner: Learner,
    rows: Tensor,
    draw: Callable[[Tensor, torch.Generator], Tensor],
    config: VaeFitConfig,
    epoch: int,
    progress: Progress,
) -> dict[str, float]:
    """Go through the data once; return the mean of each figure."""
    order, draws, own = _seeds(config.seed, epoch)
    progress.start(f"epoch {epoch + 1}/{config.epochs}", math.ceil(len(rows) / config.batch_size))
    totals: dict[str, float] = {}
    seen = 0
    generator = torch.Generator().manual_seed(draws)
    with seeded(own):  # what modules draw themselves
        for x in _batches(rows, config.batch_size, torch.Generator().manual_seed(order)):
            figures = _step(learner, draw(x, generator), generator, config, epoch)
            seen += len(x)
            for key, value in figures.items():
                totals[key] = totals.get(key, 0.0) + value * len(x)
            progress.advance(1, loss=totals["loss"] / seen)
    progress.stop()
    return {key: total / seen for key, total in totals.items()}


def _step(
    learner: Learner, x: Tensor, generator: torch.Generator, config: VaeFitConfig, epoch: int
) -> dict[str, float]:
    try:
        figures = learner.step(x, generator)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(
            "Training", f"memory ran out at batch size {config.batch_size}",
            "a step does not fit the device",
            f"Use --batch-size {max(2, config.batch_size // 2)}.",
        ) from error  # fmt: skip
    if not all(map(math.isfinite, figures.values())):
        raise TrainingError(
            "Training", f"the loss is {figures['loss']} in epoch {epoch + 1}",
            f"a learning rate of {config.lr:g} is likely too high",
            f"Use --lr {config.lr / 3:.1g}.",
        )  # fmt: skip
    return figures


def _batches(rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled batches; a last one of a single datum is left out."""
    for index in torch.split(torch.randperm(len(rows), generator=generator), size):
        if len(index) > 1:  # batch norm needs two
            yield rows[index.to(rows.device)]


def _seeds(seed: int, epoch: int) -> list[int]:
    """Return the seeds of one epoch: order, draws, and what modules draw themselves."""
    source = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    return [int(s) for s in torch.randint(1 << 62, (3,), generator=source)]
