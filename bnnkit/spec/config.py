"""One table of defaults, shared by the command line and the library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.noise import MOST_SAMPLES, SAMPLERS

__all__ = [
    "PruneConfig",
    "SbnConfig",
    "SbpConfig",
    "TrainConfig",
    "parse_calibration_split",
    "parse_scales",
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

    def __post_init__(self) -> None:
        _positive("--lr", self.lr)
        _share("--label-smoothing", self.label_smoothing)
        if not 0 <= self.weight_decay < math.inf:
            raise _refused("--weight-decay", self.weight_decay, "it must be 0 or more")
        for option, value, least in (
            ("--epochs", self.epochs, 0),
            ("--batch-size", self.batch_size, 2),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise _refused(option, value, f"it must be at least {least}")
        for option, name, known in (
            ("--optimiser", self.optimiser, ("adam", "sgd")),
            ("--precision", self.precision, ("auto", "fp32", "bf16")),
        ):
            if name not in known:
                raise _refused(option, name, "it is not known", did_you_mean(name, known))


@dataclass(frozen=True)
class SbpConfig:
    """Structured Bayesian Pruning (Neklyudov et al. 2017).

    Args:
        noise_lr: Learning rate of (μ, log σ); None takes ten times the weights' rate.
        kl_scale: Weight of the KL term; 1 is the evidence itself.
        kl_scales: `{layer pattern: weight}` that override it (SBPa).
        kl_warmup: Share of the epochs over which the KL term grows from 0.
        init_log_sigma: Where log σ starts.
        snr_threshold: A unit with a smaller signal-to-noise ratio is closed.
        finetune: Share of the epochs, at the end, trained with the decision frozen.

    Raises:
        UsageError: A value has no meaning.
    """

    noise_lr: float | None = None
    kl_scale: float = 1.0
    kl_scales: Mapping[str, float] = field(default_factory=dict)
    kl_warmup: float = 0.0
    init_log_sigma: float = 0.0
    snr_threshold: float = 1.0
    finetune: float = 0.25

    def __post_init__(self) -> None:
        if self.noise_lr is not None:
            _positive("--noise-lr", self.noise_lr)
        _share("--kl-warmup", self.kl_warmup)
        _share("--finetune", self.finetune)
        for scale in (self.kl_scale, *self.kl_scales.values()):
            if not 0 <= scale < math.inf:
                raise _refused("--kl-scale", scale, "it must be 0 or more")


@dataclass(frozen=True)
class PruneConfig:
    """Everything that `prune` can be told besides model and data.

    Args:
        method: What decides: `sbp`.
        train: The loop.
        sbp: The method's own settings.
        include: Layer patterns to prune; empty means all.
        exclude: Layer patterns to leave alone.
        round_to: Widths are kept at multiples of this many channels.
        removal_seed: With no epochs: close a random half of the units, a structural exercise.
        batches: Batch sizes to time.
        threads: Thread counts to time.
        formats: Forms to write besides safetensors: `pt2`, `onnx`.
    """

    method: str = "sbp"
    train: TrainConfig = field(default_factory=TrainConfig)
    sbp: SbpConfig = field(default_factory=SbpConfig)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    round_to: int = 1
    removal_seed: int | None = None
    batches: tuple[int, ...] = (1, 32)
    threads: tuple[int, ...] = (1,)
    formats: tuple[str, ...] = ("pt2", "onnx")


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
                raise _refused(option, value, f"it must be at least {least}")
        if self.samples > MOST_SAMPLES:
            raise _refused("--samples", self.samples, f"it must be at most {MOST_SAMPLES}")
        for option, name, known in (
            ("--sampler", self.sampler, SAMPLERS),
            ("--calibrate", self.calibrate, _CALIBRATE),
            ("--onnx-noise", self.onnx_noise, _ONNX_NOISE),
            *(("--compare", name, SAMPLERS) for name in self.compare),
        ):
            if name not in known:
                raise _refused(option, name, "it is not known", did_you_mean(name, known))
        parse_calibration_split(self.calibration_split)


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
        raise _refused(
            "--calibration-split",
            text,
            "it says where labels are held out, and which share",
            "Use cross, test:0.2 or train:0.1.",
        )
    return place, value


def _refused(option: str, value: object, why: str, hint: str = "") -> UsageError:
    return UsageError(f"Reading {option}", repr(value), why, hint)


def _positive(option: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise _refused(option, value, "it must be above 0")


def _share(option: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise _refused(option, value, "it is a share between 0 and 1")


def parse_scales(values: list[str]) -> tuple[float | None, dict[str, float]]:
    """Read `--kl-scale` values: a number for all layers, or `PATTERN=NUMBER`.

    Raises:
        UsageError: A value is neither.

    >>> parse_scales(["2", "conv1=10"])
    (2.0, {'conv1': 10.0})
    """
    overall, by_layer = None, {}
    for value in values:
        pattern, equals, number = value.rpartition("=")
        try:
            scale = float(number)
        except ValueError:
            scale = -1.0
        if not 0 <= scale < float("inf"):
            raise UsageError(
                "Reading --kl-scale", repr(value), "it needs a number of at least 0",
                "Use --kl-scale 5 or --kl-scale 'layer1.**=10'.",
            )  # fmt: skip
        if equals:
            by_layer[pattern] = scale
        else:
            overall = scale
    return overall, by_layer
