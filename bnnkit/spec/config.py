"""Defaults of training and of `sbn-fit`, shared by the command line and the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.noise import MOST_SAMPLES, SAMPLERS

__all__ = [
    "SbnConfig",
    "TrainConfig",
    "parse_calibration_split",
    "positive",
    "refused",
    "share_of_one",
]

_CALIBRATE = ("temperature", "none")
_ONNX_NOISE = ("input", "operator")


@dataclass(frozen=True)
class TrainConfig:
    """How the one training loop runs.

    Args:
        epochs: Passes over the training data.
        batch_size: Examples per step.
        lr: Peak learning rate of the weights (Adam, or SGD with Nesterov momentum .9).
        optimiser: `adam` or `sgd`.
        weight_decay: Decoupled decay of matrices and filters.
        label_smoothing: Mass moved from the label to the other classes.
        freeze_bn: Keep batch-norm statistics as they are.
        precision: `fp32`, `bf16` or `auto` (bf16 where the device has units for it).
        device: `cpu`, `cuda` or `auto`.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of order, augmentation, noise and dropout.
        compile: Train what has no noise in it through `torch.compile`.

    Raises:
        UsageError: A value has no meaning.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    optimiser: str = "adam"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    freeze_bn: bool = False
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        positive("--lr", self.lr)
        share_of_one("--label-smoothing", self.label_smoothing)
        if not 0 <= self.weight_decay < math.inf:
            raise refused("--weight-decay", self.weight_decay, "it must be 0 or more")
        for option, value, least in (
            ("--epochs", self.epochs, 0),
            ("--batch-size", self.batch_size, 2),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise refused(option, value, f"it must be at least {least}")
        for option, name, known in (
            ("--optimiser", self.optimiser, ("adam", "sgd")),
            ("--precision", self.precision, ("auto", "fp32", "bf16")),
        ):
            if name not in known:
                raise refused(option, name, "it is not known", did_you_mean(name, known))


@dataclass(frozen=True)
class SbnConfig:
    """Everything that `sbn-fit` can be told besides model and data (Atanov et al. 2019).

    Args:
        sampler: Distribution of the statistics of all layers, one of `SAMPLERS`.
        batch_size: Inputs of the batches whose statistics are fitted.
        batches: How many of them.
        samples: Statistics drawn for one answer (K).
        rank: Directions of the low-rank sampler.
        calibrate: `temperature` or `none`: what is fitted to held-out labels at the end.
        calibration_split: Where these come from: `cross` (each half of the test part by the other
            half), `test:SHARE` or `train:SHARE` (a share that is set aside).
        compare: Further samplers that are measured, not delivered.
        ood: Data of other domains, by name; `other-classes` for what `--classes` leaves out.
        ood_limit: Most inputs taken from each of these.
        mc_batch_norm: Test inputs on which MC-BN is measured; 0 leaves it out.
        trained_batch_size: Batch size of the training, where it is known.
        onnx_noise: Whether ONNX reads its noise as an `input` or draws it by an `operator`.
        batches_timed: Batch sizes to time.
        threads_timed: Thread counts to time.
        formats: Forms to write besides safetensors: `pt2`, `onnx`.
        device: `cpu`, `cuda` or `auto`.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of batches, noise and splits.

    Raises:
        UsageError: A value has no meaning.
    """

    sampler: str = "lowrank"
    batch_size: int = 32
    batches: int = 300
    samples: int = 30
    rank: int = 13
    calibrate: str = "temperature"
    calibration_split: str = "cross"
    compare: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()
    ood_limit: int = 2000
    mc_batch_norm: int = 100
    trained_batch_size: int | None = None
    onnx_noise: str = "input"
    batches_timed: tuple[int, ...] = (1, 32)
    threads_timed: tuple[int, ...] = (1,)
    formats: tuple[str, ...] = ("pt2", "onnx")
    device: str = "auto"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--batch-size", self.batch_size, 2),
            ("--batches", self.batches, 50),
            ("--samples", self.samples, 1),
            ("--rank", self.rank, 1),
            ("--ood-limit", self.ood_limit, 1),
            ("--mc-bn", self.mc_batch_norm, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise refused(option, value, f"it must be at least {least}")
        if self.samples > MOST_SAMPLES:
            raise refused("--samples", self.samples, f"it must be at most {MOST_SAMPLES}")
        for option, name, known in (
            ("--sampler", self.sampler, SAMPLERS),
            ("--calibrate", self.calibrate, _CALIBRATE),
            ("--onnx-noise", self.onnx_noise, _ONNX_NOISE),
            *(("--compare", name, SAMPLERS) for name in self.compare),
        ):
            if name not in known:
                raise refused(option, name, "it is not known", did_you_mean(name, known))
        parse_calibration_split(self.calibration_split)
        if self.rank != SbnConfig.rank and "lowrank" not in (self.sampler, *self.compare):
            raise refused(
                "--rank", self.rank, f"the sampler {self.sampler} has no directions",
                "Leave it out, or add --compare lowrank.",
            )  # fmt: skip
        if self.calibrate == "none" and self.calibration_split != SbnConfig.calibration_split:
            raise refused(
                "--calibration-split", self.calibration_split,
                "with --calibrate none nothing is fitted to it", "Leave one of them out.",
            )  # fmt: skip


def parse_calibration_split(text: str) -> tuple[str, float]:
    """Read `--calibration-split`: where the labels come from, and their share.

    Raises:
        UsageError: The text is none of `cross`, `test:SHARE`, `train:SHARE`.

    >>> parse_calibration_split("test:0.2")
    ('test', 0.2)
    """
    if text == "cross":
        return "cross", 0.5
    place, _, share = text.partition(":")
    try:
        value = float(share)
    except ValueError:
        value = math.nan
    if place not in ("test", "train") or not 0 < value < 1:
        raise refused(
            "--calibration-split",
            text,
            "it says where labels are held out, and which share",
            "Use cross, test:0.2 or train:0.1.",
        )
    return place, value


def refused(option: str, value: object, why: str, hint: str = "") -> UsageError:
    """Return the refusal of an option's value."""
    return UsageError(f"Reading {option}", repr(value), why, hint)


def positive(option: str, value: float) -> None:
    """Refuse what is not above 0 and finite."""
    if not 0 < value < math.inf:
        raise refused(option, value, "it must be above 0")


def share_of_one(option: str, value: float) -> None:
    """Refuse what is not between 0 and 1."""
    if not 0 <= value <= 1:
        raise refused(option, value, "it is a share between 0 and 1")
