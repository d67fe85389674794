"""Discriminators after the fact: trained, fitted or the owner's own, with the scores they give."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, DataError, TrainingError
from bnnkit.io.features import FeatureExtractor
from bnnkit.methods.mh.networks import ConvDiscriminator, without_spectral_norm
from bnnkit.methods.mh.scores import (
    ConvScore,
    FeatureScore,
    MixedScore,
    OwnScore,
    fit_linear,
    score_images,
)
from bnnkit.methods.mh.train import Recipe, fit_single
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.filtering.reals import Reals
from bnnkit.run.loop import seeded

__all__ = ["Candidate", "Candidates", "ProgramNet", "Watch", "discriminators", "net_of"]

_MOST_ROWS = 50_000
"""Most images on each side of a regression."""

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Weights of the net beside the regression on features."""


@dataclass(frozen=True)
class Candidate:
    """One way to score images.

    Args:
        name: How the report calls it.
        score: From images in [0, 1] (and labels) to log p/q `[n]`.
        bank: Its scores of the bank `[m]`, float64.
        held: Its scores of held-out real images `[r]`.
        fresh: Its scores of generated images that it was not trained on `[r]`.
        fresh_labels: Their classes, int64 `[r]`, of a class-conditional generator.
    """

    name: str
    score: nn.Module
    bank: Tensor
    held: Tensor
    fresh: Tensor
    fresh_labels: Tensor | None = None


@dataclass
class Candidates:
    """What there is to choose from.

    Args:
        ways: The candidates.
        seconds: CPU time of training them.
        steps: Steps of a net's training; 0 without one.
        losses: Its loss at each step.
        extractor: Name of the features used, or None.
    """

    ways: list[Candidate] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    extractor: str | None = None


class Watch:
    """Told of a net in training; the trace looks at it now and then."""

    def at(self, net: nn.Module, step: int, steps: int, loss: float) -> None:
        """Look at the net, if this is a step to look at."""


def discriminators(job: Job, bank: Bank, watch: Watch | None = None) -> Candidates:
    """Make the candidates that the configuration asks for.

    Args:
        job: The run.
        bank: Proposals; the scores of all are returned.
        watch: Told of the training of a net.

    Raises:
        DataError: The owner's discriminator gives something else than it should.
        TrainingError: A loss or a score is not a number.
    """
    kind = job.config.discriminator
    train, fresh = _fakes(job, bank)
    found = Candidates()
    views: list[tuple[str, nn.Module]] = []
    with job.clock.phase("train"):
        if kind in ("conv", "combined"):
            views.append(("conv", _conv(job, train, found, watch)))
        if kind in ("features", "combined"):
            assert job.features is not None  # checked when the job was prepared
            views.append(("features", _regression(job, train, job.features)))
            found.extractor = job.features.name
        if kind == "owner":
            assert job.owner is not None  # likewise
            views += _owner(job, train, job.owner)
            found.extractor = job.owner.name
    found.seconds = job.clock.cpu("train")
    with job.clock.phase("score"):
        found.ways = [_scored(job, name, score, bank, fresh) for name, score in views]
    if kind == "combined":
        found.ways += [_mixed(found.ways[1], found.ways[0], share) for share in _SHARES]
    return found


def _fakes(job: Job, bank: Bank) -> tuple[Bank, Bank]:
    """Make images to train on, and others to judge by: neither is of the bank."""
    train = job.make(max(len(job.fit), len(job.held)), 2, what="generating for the training")
    return train, job.make(len(job.held), 3, what="generating for the judgement")


def _conv(job: Job, fakes: Bank, found: Candidates, watch: Watch | None) -> ConvScore:
    """Train a net on real and generated images."""
    config = job.config
    recipe = Recipe(config.loss, config.floor, config.epochs, lr=config.lr)
    with seeded(config.seed):
        net = ConvDiscriminator(
            job.generator.shape, config.width, config.dropout, job.generator.classes
        ).to(job.device)

        def on_step(step: int, steps: int, loss: float) -> None:
            if step == 1:
                job.progress.start("training the discriminator", steps)
            job.progress.advance(1, loss=loss)
            if watch is not None:
                with job.clock.phase("trace"):
                    watch.at(net, step, steps, loss)

        found.losses = fit_single(
            net, job.fit.images, fakes.images, recipe, job.random(4),
            real_labels=job.labels_of(job.fit), fake_labels=fakes.labels, on_step=on_step,
        )  # fmt: skip
        job.progress.stop()
    found.steps = len(found.losses)
    return ConvScore(without_spectral_norm(net), config.floor if config.loss == "ub" else None)


def _regression(job: Job, fakes: Bank, extractor: FeatureExtractor) -> nn.Module:
    """Fit a logistic regression on the features of an extractor."""
    job.progress.start("fitting the regression on features")
    real, fake = _few(job.fit, fakes)
    linear = fit_linear(
        extractor(real.images).features,
        extractor(fake.images).features,
        real_labels=job.labels_of(real),
        fake_labels=fake.labels,
    )
    job.progress.stop()
    return FeatureScore(net_of(extractor), linear)


def _few(real: Reals, fake: Bank) -> tuple[Reals, Bank]:
    """Take as many of both as a regression needs; the order is random already."""
    count = min(len(real), len(fake), _MOST_ROWS)
    labels = None if fake.labels is None else fake.labels[:count]
    return real.take(torch.arange(count)), Bank(fake.latents[:count], fake.images[:count], labels)


class ProgramNet(nn.Module):
    """A program as what scores are made on; it takes no gradients.

    Args:
        extractor: The program.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features `[n, d]` and outputs of images `[n, c, h, w]` in [0, 1]."""
        found = self.extractor((images * 255).round().to(torch.uint8))
        return found.features, found.outputs


def net_of(extractor: FeatureExtractor) -> nn.Module:
    """Return an extractor as a module from images in [0, 1] to features and outputs."""
    return ProgramNet(extractor) if extractor.net is None else extractor.net


def _owner(job: Job, fakes: Bank, owner: FeatureExtractor) -> list[tuple[str, nn.Module]]:
    """Take the owner's discriminator as it is, and with its last layer fitted again."""
    trial = owner(job.held.images[: min(256, len(job.held))])
    outputs = trial.outputs
    if outputs is None or outputs.numel() != len(outputs):
        shape = "none" if outputs is None else str(list(outputs.shape[1:]))
        raise DataError(
            f"Reading the discriminator {owner.name!r}",
            f"outputs of shape {shape} an image",
            "it should give one number an image, real against generated",
            "Name a discriminator, or use it as --features.",
        )
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    kind = job.config.owner_output
    if kind == "probability" and not inside:
        raise DataError(
            f"Reading the discriminator {owner.name!r}",
            f"outputs from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}",
            "probabilities lie in [0, 1]",
            "Use --discriminator-output logit.",
        )
    probability = kind == "probability" or (kind == "auto" and inside)
    job.notes.append(
        f"The owner's discriminator gives {'probabilities' if probability else 'logits'}."
    )
    ways: list[tuple[str, nn.Module]] = [("as it is", OwnScore(net_of(owner), probability))]
    if trial.features.shape[1] > 1:
        ways.append(("last layer refitted", _regression(job, fakes, owner)))
    return ways


def _scored(job: Job, name: str, score: nn.Module, bank: Bank, fresh: Bank) -> Candidate:
    """Score the bank, the held-out real images and fresh generated ones."""
    total = len(bank) + len(job.held) + len(fresh)
    job.progress.start(f"scoring with {name}", total)
    out = []
    for images, labels in (
        (bank.images, bank.labels),
        (job.held.images, job.labels_of(job.held)),
        (fresh.images, fresh.labels),
    ):
        parts = []
        for start in range(0, len(images), 5000):
            rows = slice(start, start + 5000)
            told = None if labels is None else labels[rows]
            parts.append(_scores(name, score, images[rows], told))
            job.progress.advance(len(parts[-1]))
        out.append(torch.cat(parts))
    job.progress.stop()
    on_bank, on_held, on_fresh = out
    if not bool(on_held.isfinite().all()) or not bool(on_fresh.isfinite().any()):
        raise TrainingError(
            f"Scoring with the discriminator {name!r}",
            f"{int((~on_held.isfinite()).sum())} of {len(on_held)} real images without a score",
            "no chain can start there",
            "Check the discriminator and the range of its inputs.",
        )
    return Candidate(name, score, on_bank, on_held, on_fresh, fresh.labels)


def _scores(name: str, score: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """Score images; the owner's code may stop at any time."""
    try:
        return score_images(score, images, labels)
    except (BnnkitError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"Scoring with the discriminator {name!r}",
            f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            f"it stops on a batch of {min(len(images), 1000)} images",
            "Let it take any batch size.",
        ) from error


def _mixed(first: Candidate, second: Candidate, share: float) -> Candidate:
    """Weigh two scores against each other."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return (1 - share) * a + share * b

    return Candidate(
        f"{first.name} and {share:.0%} {second.name}",
        MixedScore(first.score, second.score, share),
        mean(first.bank, second.bank),
        mean(first.held, second.held),
        mean(first.fresh, second.fresh),
        first.fresh_labels,
    )
