"""Chains through an encoder: encode the image, perturb its code, decode, and judge the pair."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.io.generator_forms import Decoder
from bnnkit.io.generators import Generator
from bnnkit.methods.mh.markov import Encoder, EncoderProposal, Walked, fit_encoder, pair_chains
from bnnkit.methods.mh.networks import PairDiscriminator, without_spectral_norm
from bnnkit.methods.mh.train import Recipe, fit_pairs
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.measure import Reference, look, measure
from bnnkit.run.filtering.stepwise import Collected, until_moved
from bnnkit.run.loop import seeded

__all__ = ["PairModel", "Through", "owners_encoder", "through_encoder"]

_FOLLOWED = "encoder proposals, all accepted"
_CONTINUED = "encoder MH, continued as its sampler does"


@dataclass(frozen=True)
class PairModel:
    """What chains through an encoder are run on.

    Args:
        net: From pairs of images to the logit of `first real, second its proposal`.
        encoder: From images to latents; None where the autoencoder's own is used.
        floor: b of d in [b, 1]; 0 for the plain sigmoid.
        temperature: What log ratios are divided by.
        step: Size of the perturbation, beta.
    """

    net: nn.Module
    encoder: nn.Module | None
    floor: float
    temperature: float
    step: float


@dataclass(frozen=True)
class Through:
    """What chains through an encoder gave.

    Args:
        found: Where they ended.
        seconds: Their CPU time.
        model: What they were run on.
        rows: Controls for the table of samplers.
    """

    found: Collected
    seconds: float
    model: PairModel
    rows: list[dict[str, Any]]


def through_encoder(job: Job, bank: Bank, reference: Reference) -> Through:
    """Encode, perturb and decode, under a discriminator of pairs.

    Args:
        job: The run.
        bank: Generated images with their latents, for an encoder to learn from.
        reference: The test images.

    Raises:
        TrainingError: Chains refuse every proposal.
    """
    job.notes.append(
        "Chains through an encoder are run on a discriminator of pairs: the one of single images, "
        "with its figures, serves the rivals only."
    )
    config, draws = job.config, job.random(22)
    with job.clock.phase("train"):
        encode, fitted = _encoder(job, bank)
        propose = EncoderProposal(encode, job.generator.images, config.step, draws)
        model = _pair_model(job, propose, fitted)

    def walk(images: Tensor, count: int, what: str, *, accept_all: bool = False) -> Walked:
        starts = images[torch.randint(len(images), (count,), generator=draws)]
        job.progress.start(what, config.length)
        return pair_chains(
            propose, model.net, model.floor, starts.to(job.device).float() / 255, config.length,
            draws, temperature=model.temperature, accept_all=accept_all,
            on_step=job.progress.advance,
        )  # fmt: skip

    real, begun = job.held.images, time.process_time()
    found = until_moved(config.samples, lambda rows: walk(real, len(rows), "running the chains"))
    seconds = time.process_time() - begun
    assert found.images is not None  # pairs have images
    count = min(config.samples, config.metric_samples)
    rows = []
    with job.clock.phase("rivals"):
        for name, walked in (
            (_FOLLOWED, walk(real, count, "following the proposals", accept_all=True)),
            (_CONTINUED, walk(found.images, count, "going on with the chains")),
        ):
            assert walked.images is not None  # likewise
            row = {"name": name, "label": name, "delivered": False}
            seen = look(job.judges, walked.images)
            rows.append(row | measure(job, seen, reference, full=False))
    job.progress.stop()
    return Through(found, seconds, model, rows)


def _encoder(job: Job, bank: Bank) -> tuple[Callable[[Tensor], Tensor], nn.Module | None]:
    """Return how images are encoded, and the net that does it where it had to be trained."""
    own = owners_encoder(job.generator, job.held.images)
    if own is not None:
        job.notes.append("Images are encoded by the autoencoder's own encoder.")
        return own, None
    with seeded(job.config.seed):
        net = Encoder(job.generator.shape, job.generator.latent.shape).to(job.device)
    job.progress.start("training an encoder")
    explained = fit_encoder(net, bank.images, bank.latents, job.random(23))
    job.progress.stop()
    job.notes.append(
        f"An encoder was trained for the generator: it explains {explained:.0%} of the variance "
        "of the latents."
    )
    return net, net


def owners_encoder(made: Generator, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return the posterior mean of the autoencoder that a generator is the decoder of.

    Args:
        made: The generator.
        images: uint8 `[n, c, h, w]` to try it on.

    Returns:
        From images in [0, 1] to latents; None where there is no encoder.
    """
    module = made.form.module
    encode = getattr(module.model, "encode", None) if isinstance(module, Decoder) else None
    if encode is None:
        return None

    def mean(y: Tensor) -> Tensor:
        found = encode(y)
        z: Tensor = found[0] if isinstance(found, tuple | list) else found
        return z.reshape(len(y), *made.latent.shape)

    try:
        with torch.no_grad():
            mean(images[:2].to(made.device).float() / 255)
    except (RuntimeError, TypeError, AttributeError, IndexError):
        return None
    return mean


def _pair_model(job: Job, propose: EncoderProposal, encoder: nn.Module | None) -> PairModel:
    """Train the discriminator of pairs."""
    config = job.config
    with seeded(config.seed):
        net = PairDiscriminator(job.generator.shape, config.width, config.dropout)
        net = net.to(job.device)
        job.progress.start("training the discriminator of pairs")

        def on_step(step: int, steps: int, loss: float) -> None:
            if step == 1:
                job.progress.start("training the discriminator of pairs", steps)
            job.progress.advance(1, loss=loss)

        recipe = Recipe(config.loss, config.floor, config.epochs, lr=config.lr)
        losses = fit_pairs(
            net, job.fit.images, lambda y: propose(y)[1], recipe, job.random(24), on_step=on_step
        )
        job.progress.stop()
    late = losses[-max(1, len(losses) // 10) :]
    job.notes.append(
        f"The discriminator of pairs ended at a loss of {sum(late) / len(late):.3f} nats "
        f"({config.loss})."
    )
    floor = config.floor if config.loss == "ub" else 0.0
    return PairModel(
        without_spectral_norm(net), encoder, floor, config.temperature or 1.0, config.step
    )
