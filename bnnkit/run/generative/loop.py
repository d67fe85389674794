"""The steps that train what makes images: a generator and its opponent, or an autoencoder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from bnnkit.bayes.likelihoods import log_likelihood
from bnnkit.bayes.posteriors.diagonal import Diagonal
from bnnkit.errors import TrainingError
from bnnkit.graph.outputs import main_output
from bnnkit.io.autoencoder_logits import clamped_logits
from bnnkit.io.data import Split
from bnnkit.methods.adversarial import (
    as_logits,
    averaged,
    constrain,
    discriminator_loss,
    ends_in_sigmoid,
    generator_loss,
    release,
)
from bnnkit.run.checkpoints import Checkpoints, TrainState
from bnnkit.run.loop import seeded
from bnnkit.run.precision import Precision
from bnnkit.run.progress import Progress
from bnnkit.spec.config import TrainConfig

__all__ = ["Adversaries", "Autoencoder", "Learner", "train_epochs"]

_BETAS = (0.5, 0.999)
_NORM_BATCHES = 50
_CLIP = 100.0
"""Largest gradient norm of an autoencoder, whose loss is a sum over hundreds of pixels."""
_PHASE = "generative"
_STREAMS = 3


class Learner(Protocol):
    """Something that learns from batches of images in [0, 1]."""

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Learn from one batch `[n, c, h, w]`; return its figures, means over the batch."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state dicts of the weights and of the optimisers."""

    def restore(self, weights: dict[str, Any], optimisers: dict[str, Any]) -> None:
        """Continue from such states."""


@dataclass(eq=False)
class Adversaries:
    """A generator with outputs in [-1, 1], and the discriminator that it is trained against.

    Args:
        generator: On its device.
        discriminator: Likewise; spectral norm is put on its layers.
        latent: Shape of one latent, which is N(0, I).
        config: Rates.
        precision: Number format of the forward passes.
        device: Where both are.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent: tuple[int, ...]
    config: TrainConfig
    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        self.probability = ends_in_sigmoid(self.discriminator)
        with seeded(self.config.seed):  # the singular vectors start at random
            constrain(self.discriminator)
        self.average = averaged(self.generator)
        self.optimisers = {
            name: torch.optim.AdamW(
                module.parameters(),
                lr=self.config.lr,
                betas=_BETAS,
                weight_decay=self.config.weight_decay,
            )
            for name, module in (("g", self.generator), ("d", self.discriminator))
        }

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents on the device."""
        return torch.randn(n, *self.latent, generator=generator).to(self.device)

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Let each learn once: the discriminator first, then the generator on new latents."""
        self.generator.train()
        self.discriminator.train()
        with self.precision.autocast(self.device):
            with torch.no_grad():
                fake = main_output(self.generator(self.draw(len(x), generator)))
            real = (2 * x.to(self.device) - 1).reshape(fake.shape)
            on_real, on_fake = self._scores(real), self._scores(fake)
            loss_d = discriminator_loss(on_real, on_fake)
        self._update("d", loss_d)
        self.discriminator.requires_grad_(False)  # its own gradients are not needed here
        with self.precision.autocast(self.device):
            images = main_output(self.generator(self.draw(len(x), generator)))
            loss_g = generator_loss(self._scores(images))
        self._update("g", loss_g)
        self.discriminator.requires_grad_(True)
        self.average.update_parameters(self.generator)
        gap = on_real.detach().mean() - on_fake.detach().mean()
        return {
            "loss": float(loss_g.detach()),
            "loss_discriminator": float(loss_d.detach()),
            "logit_gap": float(gap),
        }

    def _scores(self, images: Tensor) -> Tensor:
        output = main_output(self.discriminator(images))
        return as_logits(output, probability=self.probability)

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimisers[name].step()

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all weights, and both optimisers."""
        weights = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
        }
        return weights, {name: o.state_dict() for name, o in self.optimisers.items()}

    def restore(self, weights: dict[str, Any], optimisers: dict[str, Any]) -> None:
        """Continue from such states."""
        self.generator.load_state_dict(weights["generator"])
        self.discriminator.load_state_dict(weights["discriminator"])
        self.average.load_state_dict(weights["average"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(optimisers[name])

    def finish(self, batch_size: int) -> tuple[nn.Module, nn.Module]:
        """Return the averaged generator, its batch norm measured anew, and the discriminator.

        Args:
            batch_size: Latents of one batch of that measurement.
        """
        final: nn.Module = self.average.module
        source = torch.Generator().manual_seed(self.config.seed)
        with torch.no_grad():
            update_bn((self.draw(batch_size, source) for _ in range(_NORM_BATCHES)), final)
        return final.eval(), release(self.discriminator)


@dataclass(eq=False)
class Autoencoder:
    """A variational autoencoder with Bernoulli pixels, trained by its evidence lower bound.

    Args:
        model: On its device; it encodes, decodes, and answers `model(x, noise)`.
        config: Rates.
        precision: Number format of the forward pass.
        device: Where it is.
    """

    model: nn.Module
    config: TrainConfig
    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Learn from one batch, whose pixels are drawn."""
        self.model.train()
        loss, figures = self._loss(x, generator)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimiser.step()
        return figures

    def _loss(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the mean negative bound of a batch in nats, and its parts."""
        likelihood, kl = (part.mean() for part in self.elbo_parts(x, generator))
        loss = kl - likelihood
        figures = {"loss": loss, "kl": kl, "reconstruction": -likelihood}
        return loss, {name: float(value.detach()) for name, value in figures.items()}

    def elbo_parts(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the two parts of the bound of each image, with drawn pixels and latents.

        Args:
            x: Grey images in [0, 1], `[n, c, h, w]`; each pixel is drawn with its grey value as
                the probability.
            generator: Source of both draws.

        Returns:
            log p(x | z) at one z ~ q(z | x), and KL(q(z | x) || N(0, I)), in nats `[n]` each.
        """
        pixels = torch.bernoulli(x, generator=generator).to(self.device)
        with self.precision.autocast(self.device):
            mean, log_variance = self.model.encode(pixels)  # type: ignore[operator]
            q = Diagonal(mean.float(), 0.5 * log_variance.float())
            z, _ = q.sample(torch.randn(mean.shape, generator=generator).to(self.device))
            probabilities = self.model.decode(z)  # type: ignore[operator]
        logits = clamped_logits(probabilities.float().flatten(1))
        return log_likelihood("bernoulli", pixels.flatten(1), [logits]), q.kl()

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the weights and the optimiser."""
        return {"model": self.model.state_dict()}, {"adam": self.optimiser.state_dict()}

    def restore(self, weights: dict[str, Any], optimisers: dict[str, Any]) -> None:
        """Continue from such states."""
        self.model.load_state_dict(weights["model"])
        self.optimiser.load_state_dict(optimisers["adam"])


def train_epochs(
    learner: Learner,
    data: Split,
    config: TrainConfig,
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    """Train, saving the state after each epoch; a resumed run equals an unbroken one.

    Order, latents, pixels and dropout of an epoch are seeded by (seed, epoch) alone.

    Raises:
        TrainingError: A loss is not a number, or memory ran out.
    """
    start = 0
    if (state := checkpoints.load(_PHASE)) is not None:
        learner.restore(dict(state.model), dict(state.optimiser))
        start = state.epoch
    for epoch in range(start, config.epochs):
        began = time.perf_counter()
        row = _epoch(learner, data, config, epoch, progress)
        seconds = time.perf_counter() - began
        checkpoints.log({"epoch": float(epoch + 1), **row, "lr": config.lr, "seconds": seconds})
        weights, optimisers = learner.state()
        checkpoints.save(TrainState(_PHASE, epoch + 1, weights, {}, optimisers))


def _epoch(
    learner: Learner, data: Split, config: TrainConfig, epoch: int, progress: Progress
) -> dict[str, float]:
    """Go through the data once; return the mean of each figure."""
    order, draws, own = _seeds(config.seed, epoch)
    size = config.batch_size
    progress.start(f"epoch {epoch + 1}/{config.epochs}", math.ceil(len(data) / size))
    totals: dict[str, float] = {}
    seen = 0
    generator = torch.Generator().manual_seed(draws)
    with seeded(own):
        for x in _images(data, size, torch.Generator().manual_seed(order)):
            try:
                figures = learner.step(x, generator)
            except (torch.OutOfMemoryError, MemoryError) as error:
                raise TrainingError(
                    "Training", f"memory ran out at batch size {size}",
                    "a step does not fit the device", f"Use --batch-size {max(2, size // 2)}.",
                ) from error  # fmt: skip
            if not all(map(math.isfinite, figures.values())):
                raise TrainingError(
                    "Training", f"the loss is {figures['loss']} in epoch {epoch + 1}",
                    f"a learning rate of {config.lr:g} is likely too high",
                    f"Use --lr {config.lr / 3:.1g}.",
                )  # fmt: skip
            seen += len(x)
            for key, value in figures.items():
                totals[key] = totals.get(key, 0.0) + value * len(x)
            progress.advance(1, loss=totals["loss"] / seen)
    progress.stop()
    return {key: total / seen for key, total in totals.items()}


def _images(data: Split, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled batches of images; a last one of a single image is left out."""
    for x, _ in data.batches(size, shuffle=True, augment=True, generator=generator):
        if len(x) > 1:  # batch norm needs two
            yield x


def _seeds(seed: int, epoch: int) -> tuple[int, ...]:
    """Return the seeds of one epoch: order, draws, and what modules draw themselves."""
    source = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    return tuple(torch.randint(1 << 62, (_STREAMS,), generator=source).tolist())
