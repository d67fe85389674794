"""Training discriminators on real images and on what a generator made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bnnkit.errors import TrainingError
from bnnkit.methods.mh.objectives import pair_loss, single_loss

__all__ = ["Recipe", "fit_pairs", "fit_single"]

_BETAS = (0.5, 0.99)
_WARM_UP = 0.1


@dataclass(frozen=True)
class Recipe:
    """How a discriminator is trained.

    Args:
        loss: `bce`, `mce` or `ub`.
        floor: b of d in [b, 1] for the upper bound.
        epochs: Passes over the real images; part of one is allowed.
        batch_size: Real images a step, and as many generated ones.
        lr: Peak learning rate of Adam, on a one-cycle schedule.
    """

    loss: str = "mce"
    floor: float = 0.01
    epochs: float = 4.0
    batch_size: int = 128
    lr: float = 3e-3


Step = Callable[[int, int, float], None]
"""Told after each step: steps done, steps in all, and the loss."""


def fit_single(
    net: nn.Module,
    real: Tensor,
    fake: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    real_labels: Tensor | None = None,
    fake_labels: Tensor | None = None,
    on_step: Step | None = None,
) -> list[float]:
    """Train d(x) for independent proposals; the net is left in eval mode.

    Args:
        net: From images in [0, 1] (and labels) to logits `[n]`; on the device of the work.
        real: uint8 `[n, c, h, w]`.
        fake: uint8 `[m, c, h, w]`.
        recipe: Loss, epochs and rate.
        generator: Source of the order, on the CPU.
        real_labels: int64 `[n]` for a class-conditional discriminator.
        fake_labels: int64 `[m]`, likewise.
        on_step: Told after each step.

    Returns:
        The loss of each step, nats.

    Raises:
        TrainingError: The loss is not a number.
    """
    device = next(net.parameters()).device

    def loss(rows: Tensor, partners: Tensor) -> Tensor:
        count = len(rows)
        images = _inputs(torch.cat([real[rows], fake[partners]]), device)
        if real_labels is None or fake_labels is None:
            logits = net(images)
        else:
            labels = torch.cat([real_labels[rows], fake_labels[partners]]).to(device)
            logits = net(images, labels)
        return single_loss(logits[:count], logits[count:], recipe.loss, recipe.floor)

    batches = _batches(len(real), len(fake), recipe, generator)
    return _descend(net, loss, batches, _steps(len(real), recipe), recipe, on_step)


def fit_pairs(
    net: nn.Module,
    real: Tensor,
    propose: Callable[[Tensor], Tensor],
    recipe: Recipe,
    generator: torch.Generator,
    *,
    on_step: Step | None = None,
) -> list[float]:
    """Train d(x, y) for Markov proposals; the net is left in eval mode.

    Args:
        net: From two batches of images in [0, 1] to logits `[n]`.
        real: uint8 `[n, c, h, w]`, the states y.
        propose: Draws x from q(x | y) for images y in [0, 1], `[n, c, h, w]`.
        recipe: Loss, epochs and rate.
        generator: Source of the order, on the CPU.
        on_step: Told after each step.

    Returns:
        The loss of each step, nats.

    Raises:
        TrainingError: The loss is not a number.
    """
    device = next(net.parameters()).device
    floor = recipe.floor if recipe.loss == "ub" else 0.0

    def loss(rows: Tensor, _partners: Tensor) -> Tensor:
        y = _inputs(real[rows], device)
        with torch.no_grad():
            x = propose(y)
        forward, backward = net(torch.cat([y, x]), torch.cat([x, y])).chunk(2)
        return pair_loss(forward, backward, recipe.loss, floor)

    batches = _batches(len(real), len(real), recipe, generator)
    return _descend(net, loss, batches, _steps(len(real), recipe), recipe, on_step)


def _inputs(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, torch.float32) / 255


def _steps(count: int, recipe: Recipe) -> int:
    return max(1, round(recipe.epochs * max(1, count // recipe.batch_size)))


def _batches(
    reals: int, fakes: int, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of real images, each once an epoch, and as many random rows of generated ones."""
    size = min(recipe.batch_size, reals)
    while True:
        order = torch.randperm(reals, generator=generator)
        for start in range(0, reals - size + 1, size):
            partners = torch.randint(fakes, (size,), generator=generator)
            yield order[start : start + size], partners


def _descend(
    net: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    recipe: Recipe,
    on_step: Step | None,
) -> list[float]:
    """Take Adam steps on a one-cycle schedule, and keep the mean weights of the last quarter.

    The mean (Polyak and Juditsky 1992) rids scores of the noise of the last batches, which would
    spread the chains' weights and tell nothing.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.lr, betas=_BETAS)
    warm_up = max(_WARM_UP, 2 / (steps + 1))  # one step or more: none is a division by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=steps + 1, pct_start=warm_up, cycle_momentum=False
    )
    averaged = AveragedModel(net)
    net.train()
    losses = []
    for step in range(1, steps + 1):
        value = loss(*next(batches))
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                "Training the discriminator",
                f"a loss of {losses[-1]} at step {step}",
                "it is no number to go on with",
                "Use a smaller --lr, or --loss mce.",
            )
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step > 3 * steps // 4:
            averaged.update_parameters(net)
        if on_step is not None:
            on_step(step, steps, losses[-1])
    net.load_state_dict(averaged.module.state_dict())
    net.eval()
    return losses
