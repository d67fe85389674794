"""Chains whose proposals depend on where they are, or are made fresh for every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import TrainingError, UsageError
from bnnkit.io.generator_forms import Decoder
from bnnkit.methods.mh.markov import (
    Encoder,
    Walked,
    fit_encoder,
    latent_chains,
    pair_chains,
    perturb,
)
from bnnkit.methods.mh.networks import PairDiscriminator, without_spectral_norm
from bnnkit.methods.mh.scores import score_images
from bnnkit.methods.mh.train import Recipe, fit_pairs
from bnnkit.run.loop import seeded
from bnnkit.run.mh_choose import Chosen
from bnnkit.run.mh_job import Bank, Job
from bnnkit.run.mh_measure import Reference, look, measure

__all__ = ["Stepwise", "step_by_step"]

_RESTARTS = 100


@dataclass(frozen=True)
class Stepwise:
    """What chains gave that were run step by step.

    Args:
        images: uint8 `[n, c, h, w]`.
        latents: `[n, ...]`.
        labels: int64 `[n]` of a class-conditional generator, or None.
        chain: The report's section.
        rows: Controls for the table of samplers.
        pairs: The discriminator of pairs, where there is one.
    """

    images: Tensor
    latents: Tensor
    labels: Tensor | None
    chain: dict[str, Any]
    rows: list[dict[str, Any]]
    pairs: nn.Module | None = None


def step_by_step(job: Job, bank: Bank, chosen: Chosen, reference: Reference) -> Stepwise:
    """Run the chains that the configuration asks for.

    Args:
        job: The run.
        bank: Generated images with their latents, for an encoder to learn from.
        chosen: The score of single images.
        reference: The test images.

    Raises:
        TrainingError: Chains refuse every proposal.
        UsageError: The generator cannot be walked in this way.
    """
    if job.generator.pixels == "sampled":
        raise UsageError(
            "Making proposals for each step", "sampled pixels",
            "a latent alone does not say which image of it was accepted",
            "Use --pixels mean, or independent proposals from a --bank.",
        )  # fmt: skip
    if job.config.proposal == "encoder":
        return _encoder(job, bank, reference)
    return _latents(job, chosen)


@dataclass
class _Collected:
    """Chains put together from all attempts: one that never moved was begun again.

    Args:
        latents: `[n, ...]`.
        images: uint8 `[n, c, h, w]`, or None where the latents make them.
        first: The first attempt.
        restarts: Chains that were begun again.
    """

    latents: Tensor
    images: Tensor | None
    first: Walked
    restarts: int = 0


def _until_moved(count: int, run: Callable[[Tensor], Walked]) -> _Collected:
    """Run chains until each has moved away from its real start.

    Args:
        count: How many.
        run: Runs those of some numbers `[m]`.

    Raises:
        TrainingError: Some do not move in several attempts.
    """
    first = run(torch.arange(count))
    out = _Collected(first.latents, first.images, first)
    waiting = (~first.moved).nonzero().squeeze(1)
    for _ in range(_RESTARTS):
        if not len(waiting):
            break
        again = run(waiting)
        out.latents[waiting] = again.latents
        if out.images is not None and again.images is not None:
            out.images[waiting] = again.images
        out.restarts += len(waiting)
        waiting = waiting[~again.moved]
    if len(waiting):
        raise TrainingError(
            "Filtering the generator",
            f"{len(waiting)} of {count} chains that accepted no proposal in {_RESTARTS + 1} tries",
            "the discriminator tells proposals from real images almost without fail",
            "Use longer chains (--chain-length), smaller steps (--step), or a softer "
            "discriminator (--temperature above 1).",
        )
    return out


_KINDS = {"walk": "latent walk", "encoder": "encoder", "independent": "independent, fresh"}


def _section(job: Job, found: _Collected, seconds: float) -> dict[str, Any]:
    """Return the report's section of the chains."""
    count = len(found.latents)
    return {
        "proposal": _KINDS[job.config.proposal],
        "length": job.config.length,
        "chains": count,
        "acceptance": found.first.acceptance,
        "unmoved_share": float((~found.first.moved).double().mean()),
        "restarts": found.restarts,
        "unique_share": 1.0,
        "per_second": count / max(seconds, 1e-9),
        "seconds": seconds,
    }


def _latents(job: Job, chosen: Chosen) -> Stepwise:
    """Walk in latent space, or draw fresh latents at every step."""
    config, made = job.config, job.generator
    if config.proposal == "walk" and made.latent.kind != "normal":
        raise UsageError(
            "Walking in latent space", f"latents of {made.latent}",
            "the walk keeps N(0, I) as it is, and no other distribution",
            "Use --proposal independent.",
        )  # fmt: skip
    beta = config.step if config.proposal == "walk" else 1.0
    draws, labels = job.random(21), None
    if job.conditional:
        counts = torch.tensor(job.dealt(config.samples))
        order = torch.randperm(config.samples, generator=draws)
        labels = torch.arange(len(counts)).repeat_interleave(counts)[order]

    def run(rows: Tensor) -> Walked:
        told = None if labels is None else labels[rows]

        def score(z: Tensor) -> Tensor:
            return score_images(chosen.score, made.bytes(z, told, draws), told)

        job.progress.start("running the chains", config.length)
        return latent_chains(
            made.draw, score, chosen.held, len(rows), config.length, beta, draws,
            on_step=job.progress.advance,
        )  # fmt: skip

    begun = time.process_time()
    found = _until_moved(config.samples, run)
    job.progress.stop()
    chain = _section(job, found, time.process_time() - begun)
    return Stepwise(made.bytes(found.latents, labels, draws), found.latents, labels, chain, [])


# --- through an encoder ---------------------------------------------------------------------


def _encoder(job: Job, bank: Bank, reference: Reference) -> Stepwise:
    """Encode, perturb and decode, under a discriminator of pairs."""
    made, config, draws = job.generator, job.config, job.random(22)
    if made.latent.kind != "normal" or job.conditional:
        raise UsageError(
            "Proposing through an encoder",
            "a class-conditional generator" if job.conditional else f"latents of {made.latent}",
            "codes are perturbed by a walk that keeps N(0, I) as it is, without labels",
            "Use --proposal independent.",
        )
    job.notes.append(
        "Chains through an encoder are run on a discriminator of pairs: the one of single images, "
        "with its figures, serves the rivals only."
    )
    encode = _owners_encoder(job) or _fitted_encoder(job, bank)

    def propose(y: Tensor) -> tuple[Tensor, Tensor]:
        z = perturb(encode(y), config.step, draws)
        return z, made.images(z)

    net, losses = _pairs(job, lambda y: propose(y)[1])
    floor = config.floor if config.loss == "ub" else 0.0
    job.notes.append(
        f"The discriminator of pairs ended at a loss of {losses:.3f} nats ({config.loss})."
    )

    def run(rows: Tensor, *, accept_all: bool = False) -> Walked:
        picked = torch.randint(len(job.held), (len(rows),), generator=draws)
        starts = job.held.images[picked].to(job.device).float() / 255
        what = "following the proposals" if accept_all else "running the chains"
        job.progress.start(what, config.length)
        return pair_chains(
            propose, net, floor, starts, config.length, draws,
            temperature=config.temperature or 1.0, accept_all=accept_all,
            on_step=job.progress.advance,
        )  # fmt: skip

    begun = time.process_time()
    found = _until_moved(config.samples, run)
    seconds = time.process_time() - begun
    followed = run(torch.arange(config.samples), accept_all=True).images
    job.progress.stop()
    assert found.images is not None and followed is not None  # noqa: PT018 - pairs have images
    row = {
        "name": "encoder proposals, all accepted",
        "label": "encoder proposals, all accepted",
        "delivered": False,
    } | measure(job, look(job.judges, followed), reference, full=False)
    chain = _section(job, found, seconds)
    return Stepwise(found.images, found.latents, None, chain, [row], net)


def _owners_encoder(job: Job) -> Callable[[Tensor], Tensor] | None:
    """Return the posterior mean of the autoencoder that the generator is the decoder of."""
    module = job.generator.form.module
    encode = getattr(module.model, "encode", None) if isinstance(module, Decoder) else None
    if encode is None:
        return None

    def mean(y: Tensor) -> Tensor:
        found = encode(y)
        z: Tensor = found[0] if isinstance(found, tuple | list) else found
        return z.reshape(len(y), *job.generator.latent.shape)

    try:
        with torch.no_grad():
            mean(job.held.images[:2].to(job.device).float() / 255)
    except (RuntimeError, TypeError, AttributeError, IndexError):
        return None
    job.notes.append("Images are encoded by the autoencoder's own encoder.")
    return mean


def _fitted_encoder(job: Job, bank: Bank) -> nn.Module:
    """Teach an encoder the latents of the bank."""
    with seeded(job.config.seed):
        net = Encoder(job.generator.shape, job.generator.latent.shape).to(job.device)
    job.progress.start("training an encoder")
    explained = fit_encoder(net, bank.images, bank.latents, job.random(23))
    job.progress.stop()
    job.notes.append(
        f"An encoder was trained for the generator: it explains {explained:.0%} of the variance "
        "of the latents."
    )
    return net


def _pairs(job: Job, propose: Callable[[Tensor], Tensor]) -> tuple[nn.Module, float]:
    """Train the discriminator of pairs; return it and its late loss."""
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
        losses = fit_pairs(net, job.fit.images, propose, recipe, job.random(24), on_step=on_step)
        job.progress.stop()
    late = losses[-max(1, len(losses) // 10) :]
    return without_spectral_norm(net), sum(late) / len(late)
