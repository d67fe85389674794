"""Chains whose proposals depend on where they are, or are made fresh for every step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnnkit.methods.mh.markov import Walked, latent_chains
from bnnkit.methods.mh.scores import score_images
from bnnkit.run.filtering.chains import start_scores
from bnnkit.run.filtering.choose import Chosen
from bnnkit.run.filtering.encoder import PairModel, through_encoder
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.measure import Reference
from bnnkit.run.filtering.stepwise import chain_section, until_moved

__all__ = ["Stepwise", "step_by_step"]


@dataclass(frozen=True)
class Stepwise:
    """What chains gave that were run step by step.

    Args:
        images: uint8 `[n, c, h, w]`.
        latents: `[n, ...]`.
        labels: int64 `[n]` of a class-conditional generator, or None.
        chain: The report's section.
        rows: Controls for the table of samplers.
        pairs: What chains through an encoder were run on, or None.
    """

    images: Tensor
    latents: Tensor
    labels: Tensor | None
    chain: dict[str, Any]
    rows: list[dict[str, Any]]
    pairs: PairModel | None = None


def step_by_step(job: Job, bank: Bank, chosen: Chosen, reference: Reference) -> Stepwise:
    """Run the chains that the configuration asks for.

    Args:
        job: The run.
        bank: Generated images with their latents, for an encoder to learn from.
        chosen: The score of single images.
        reference: The test images.

    Raises:
        TrainingError: Chains refuse every proposal.
    """
    if job.config.proposal != "encoder":
        return _latents(job, chosen)
    through = through_encoder(job, bank, reference)
    found, chain = through.found, chain_section(job, through.found, through.seconds)
    assert found.images is not None  # pairs have images
    return Stepwise(found.images, found.latents, None, chain, through.rows, through.model)


def _latents(job: Job, chosen: Chosen) -> Stepwise:
    """Walk in latent space, or draw fresh latents at every step."""
    config, made = job.config, job.generator
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
        starts = start_scores(job, chosen.held, told, len(rows), draws)
        return latent_chains(
            made.draw, score, starts, config.length, beta, draws, on_step=job.progress.advance
        )

    begun = time.process_time()
    found = until_moved(config.samples, run)
    job.progress.stop()
    chain = chain_section(job, found, time.process_time() - begun)
    return Stepwise(made.bytes(found.latents, labels, draws), found.latents, labels, chain, [])
