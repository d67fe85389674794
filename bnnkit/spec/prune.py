"""Defaults of `prune`, shared by the command line and the library."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.config import TrainConfig, positive, refused, share_of_one
from bnnkit.spec.gates import GateOptions, parse_setting
from bnnkit.spec.posterior_config import PosteriorConfig

__all__ = [
    "COSTS",
    "PruneConfig",
    "RecoveryConfig",
    "SbpConfig",
    "Target",
    "finetune_share",
    "parse_scales",
    "parse_size",
]

COSTS = ("none", "macs", "params", "latency")

_RUNTIMES = ("onnxruntime", "torch")

_NOISE = ("example", "batch")

_FINETUNE, _FINETUNE_TO_TARGET = 0.25, 0.6

_DISTILL_TO_TARGET = 0.9

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9,
          "kib": 2**10, "mib": 2**20, "gib": 2**30}  # fmt: skip


@dataclass(frozen=True)
class SbpConfig:
    """Structured Bayesian Pruning (Neklyudov et al. 2017).

    Args:
        noise_lr: Learning rate of (μ, log σ); None takes ten times the weights' rate.
        kl_scale: Weight of the KL term; 1 is the evidence itself. With a target it is where the
            search for the weight starts.
        kl_scales: `{layer pattern: weight}` that override it (SBPa).
        kl_warmup: Share of the epochs over which the KL term grows from 0.
        init_log_sigma: Where log σ starts.
        snr_threshold: A unit with a smaller signal-to-noise ratio is closed.
        noise: One draw for every `example` (gradients of lower variance), or one for the `batch`,
            which is multiplied into the weights that read it.

    Raises:
        UsageError: A value has no meaning.
    """

    noise_lr: float | None = None
    kl_scale: float = 1.0
    kl_scales: Mapping[str, float] = field(default_factory=dict)
    kl_warmup: float = 0.0
    init_log_sigma: float = 0.0
    snr_threshold: float = 1.0
    noise: str = "example"

    def __post_init__(self) -> None:
        if self.noise not in _NOISE:
            raise refused(
                "--noise", self.noise, "it is not known", did_you_mean(self.noise, _NOISE)
            )
        if self.noise_lr is not None:
            positive("--noise-lr", self.noise_lr)
        share_of_one("--kl-warmup", self.kl_warmup)
        for scale in (self.kl_scale, *self.kl_scales.values()):
            if not 0 <= scale < math.inf:
                raise refused("--kl-scale", scale, "it must be 0 or more")


@dataclass(frozen=True)
class RecoveryConfig:
    """What follows the decision, for every method alike.

    Args:
        finetune: Share of the epochs, at the end, that train the slim net; None takes a quarter,
            and six tenths where a target has to be reached, which costs the net more.
        distill: Weight of the original's answers in the loss; the labels keep the rest. None takes
            0.9 where there is a target, and 0 where the evidence alone decides.
        temperature: Temperature of both answers in that loss (Hinton et al. 2015).
        reconstruct: Training inputs on which the layers that read closed units are refitted, by
            least squares, to what they gave before; None takes as many as cost little, 0 leaves
            the weights.
        reestimate: Training batches that the batch-norm statistics are measured on anew, right
            after the removal; 0 leaves them.

    Raises:
        UsageError: A value has no meaning.
    """

    finetune: float | None = None
    distill: float | None = None
    temperature: float = 4.0
    reconstruct: int | None = None
    reestimate: int = 0

    def __post_init__(self) -> None:
        if self.finetune is not None:
            share_of_one("--finetune", self.finetune)
        if self.distill is not None:
            share_of_one("--distill", self.distill)
        positive("--distill-temperature", self.temperature)
        if self.reconstruct is not None and self.reconstruct < 0:
            raise refused("--reconstruct", self.reconstruct, "it must be 0 or more")
        if self.reestimate < 0:
            raise refused("--reestimate-bn", self.reestimate, "it must be 0 or more")


@dataclass(frozen=True)
class Target:
    """What the slim model is to reach or to hold; None leaves it open.

    Args:
        macs: Share of the original's multiply-accumulates.
        size: Bytes of the weights as a safetensors file.
        speedup: Original / slim latency, as measured.
        error_rise: Percentage points of error, on held-out data, that may be lost; the most
            compressed net that holds it is sought.
        speedup_at: `key=value,...` the runtime, device, threads and batch of `speedup` and of
            latency as a cost.

    Raises:
        UsageError: A value has no meaning, or two of `macs`, `size` and `speedup` are given.
    """

    macs: float | None = None
    size: int | None = None
    speedup: float | None = None
    error_rise: float | None = None
    speedup_at: str | None = None

    def __post_init__(self) -> None:
        if self.macs is not None and not 0 < self.macs < 1:
            raise refused(
                "--target-macs", self.macs, "it is a share of the original's, between 0 and 1",
                "Use --target-macs 0.5 for half of them.",
            )  # fmt: skip
        if self.size is not None and self.size < 1:
            raise refused("--target-size", self.size, "it must be above 0 bytes")
        if self.speedup is not None and not 1 < self.speedup < math.inf:
            raise refused("--target-speedup", self.speedup, "it must be above 1")
        if self.error_rise is not None and not math.isfinite(self.error_rise):
            raise refused("--max-error-rise", self.error_rise, "it is no finite number")
        if len(self.costs()) > 1:
            raise UsageError(
                "Choosing a target", " and ".join(f"--target-{name}" for name in self.costs()),
                "a run reaches one of them", "Keep one, and judge the others with gates.",
            )  # fmt: skip
        if self.speedup_at is not None:
            parse_setting(self.speedup_at)

    def costs(self) -> dict[str, float]:
        """Return the stated one of `macs`, `size` and `speedup`, `{name: value}`, if any."""
        named = {"macs": self.macs, "size": self.size, "speedup": self.speedup}
        return {name: float(value) for name, value in named.items() if value is not None}

    def is_budget(self) -> bool:
        """Tell whether the error budget decides; beside a stated cost it only judges."""
        return self.error_rise is not None and not self.costs()

    def __bool__(self) -> bool:
        """Tell whether anything is aimed at."""
        return bool(self.costs()) or self.error_rise is not None


@dataclass(frozen=True)
class PruneConfig:
    """Everything that `prune` can be told besides model and data.

    Args:
        method: What decides, one of `bnnkit.methods.METHODS` and `RANKINGS`; `auto` is `laplace`
            where there is a target, else `sbp`, which can tell without one how much goes.
        train: The loop.
        sbp: Settings of Structured Bayesian Pruning.
        posterior: Settings of the methods with a posterior on weights.
        recovery: What follows the decision.
        target: What the slim model is to reach; without one the unscaled evidence decides.
        cost: What a unit's price is counted in, for the weights of the KL terms and for the
            order of the controls; None takes `macs` where there is a target, else `none`.
        val: Where the examples are that decide about an error budget: a share of the training
            part (`auto`: as many as the budget needs), or data by name.
        include: Layer patterns to prune; empty means all.
        exclude: Layer patterns to leave alone.
        round_to: Widths are kept at multiples of this many channels; 0 measures which pays.
        removal_seed: With no epochs: close a random half of the units, a structural exercise.
        batches: Batch sizes to time.
        threads: Thread counts to time.
        formats: Forms to write besides safetensors: `pt2`, `onnx`.

    Raises:
        UsageError: A value has no meaning.
    """

    method: str = "auto"
    train: TrainConfig = field(default_factory=TrainConfig)
    sbp: SbpConfig = field(default_factory=SbpConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    target: Target = field(default_factory=Target)
    cost: str | None = None
    val: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    round_to: int = 1
    removal_seed: int | None = None
    batches: tuple[int, ...] = (1, 32)
    threads: tuple[int, ...] = (1,)
    formats: tuple[str, ...] = ("pt2", "onnx")

    def __post_init__(self) -> None:
        if self.cost is not None and self.cost not in COSTS:
            raise refused("--cost", self.cost, "it is not known", did_you_mean(self.cost, COSTS))
        if self.times_layers():
            self.timed_at()

    def calm_epochs(self, epochs: int) -> int:
        """Return how many of some epochs train the slim net, after the noise.

        One at least, where there is one to spare; and unless it is stated otherwise one is left
        for the noise.
        """
        share, least = self.recovery.finetune, 1 if epochs > 1 else 0
        if share is None:
            share = _FINETUNE_TO_TARGET if self.target else _FINETUNE
            return min(max(least, round(epochs * share)), max(0, epochs - 1))
        return max(least, round(epochs * share)) if share > 0 else 0

    def times_layers(self) -> bool:
        """Tell whether latency is a cost of this run, and not only measured at its end."""
        return self.target.speedup is not None or self.cost == "latency" or not self.round_to

    def timed_at(self) -> dict[str, str]:
        """Return where latency is measured: runtime, device, threads and batch.

        Raises:
            UsageError: `speedup_at` states a batch size or a thread count that is none, or what
                layers are not timed by.
        """
        runtime = "onnxruntime" if "onnx" in self.formats else "torch"
        usual = {
            "runtime": runtime,
            "device": "cpu",
            "threads": str(self.threads[0]),
            "batch": str(self.batches[0]),
        }
        stated = parse_setting(self.target.speedup_at) if self.target.speedup_at else {}
        if stated.get("device", "cpu") != "cpu":
            usual["runtime"] = "torch"
        for key in ("batch", "threads"):
            if key in stated and not (stated[key].isdecimal() and int(stated[key])):
                raise refused("--speedup-at", f"{key}={stated[key]}", "it is a number above 0")
        at = {**usual, **stated}
        if at["runtime"] not in _RUNTIMES:
            raise refused(
                "--speedup-at", f"runtime={at['runtime']}", "what is aimed at is timed under "
                "onnxruntime or torch", did_you_mean(at["runtime"], _RUNTIMES),
            )  # fmt: skip
        if not at["device"].startswith(("cpu", "cuda")):
            raise refused("--speedup-at", f"device={at['device']}", "it is cpu or cuda")
        if at["device"].startswith("cuda") and at["runtime"] != "torch":
            raise refused(
                "--speedup-at", "runtime=onnxruntime with device=cuda", "it is timed on the CPU "
                "only", "Use runtime=torch there.",
            )  # fmt: skip
        return at

    def aimed(self, gates: GateOptions | None) -> PruneConfig:
        """Return the configuration as it is run: gates that are targets too, method, distillation.

        A stated cost is reached whatever the gates say; without one the strictest cost gate or,
        where there is none, the error budget is what the run aims at.

        Args:
            gates: The limits that the report will be judged by.
        """
        target = self.target
        if gates is not None and self.removal_seed is None:  # a random removal aims at nothing
            target = _with_gates(target, gates)
        method = self.method
        if method == "auto":
            learned = self.sbp != SbpConfig() or not target or self.removal_seed is not None
            method = "sbp" if learned else "laplace"
        recovery = self.recovery
        if recovery.distill is None:
            recovery = replace(recovery, distill=_DISTILL_TO_TARGET if target else 0.0)
        return replace(self, target=target, method=method, recovery=recovery)


def _with_gates(target: Target, gates: GateOptions) -> Target:
    """Return a target with the gates that are targets as well."""
    if gates.speedup_at is not None:
        target = replace(target, speedup_at=gates.speedup_at)
    if target.error_rise is None and gates.max_error_rise is not None:
        target = replace(target, error_rise=gates.max_error_rise)
    if not target.costs() and gates.min_mac_ratio is not None and gates.min_mac_ratio > 1:
        target = replace(target, macs=1 / gates.min_mac_ratio)
    if not target.costs() and gates.min_speedup is not None and gates.min_speedup > 1:
        target = replace(target, speedup=gates.min_speedup)
    return target


def parse_size(text: str) -> int:
    """Read a size in bytes, `--target-size`.

    Raises:
        UsageError: It is no number with a unit of bytes.

    >>> parse_size("1MB"), parse_size("1.5 KiB"), parse_size("4096")
    (1000000, 1536, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in _BYTES:
        raise refused(
            "--target-size", text, "it is a number of bytes with a unit",
            "Use 500kB, 1MB or 1MiB.",
        )  # fmt: skip
    return round(Fraction(found[1]) * _BYTES[found[2].lower()])


def finetune_share(share: float | None, count: int | None, epochs: int) -> float | None:
    """Return the share of the epochs that train the slim net; None where it is not stated.

    Args:
        share: As stated.
        count: Or as a number of epochs.
        epochs: Epochs in all.

    Raises:
        UsageError: Both are given, or there are not so many epochs.
    """
    if share is not None and count is not None:
        raise UsageError(
            "Reading --finetune-epochs", f"{count} beside --finetune {share:g}",
            "both say the same thing", "Keep one.",
        )  # fmt: skip
    if count is None:
        return share
    if count > epochs:
        raise refused("--finetune-epochs", count, f"there are {epochs} epochs in all")
    return count / epochs if epochs else 0.0


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
