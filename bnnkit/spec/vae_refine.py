"""What the refinement of a VAE's posteriors can be told: one table of defaults."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.vae_eval import check_counts, check_rising

__all__ = [
    "BINARY_OPTIMISERS",
    "DRAWS",
    "FAMILIES",
    "FULL_DRAWS",
    "OPTIMISERS",
    "RATES",
    "RefineConfig",
    "matrix_shape",
]

FAMILIES = ("diag", "mn:RxC", "full", "flow")
OPTIMISERS = ("adam", "sgd", "rmsprop", "natural")
"""What refines posteriors of continuous latents."""

BINARY_OPTIMISERS = ("ais", "centre", "straight-through")
"""What refines those of binary ones: adaptive importance sampling, and two ways of ascent."""

RATES = {
    "adam": 0.1, "sgd": 0.01, "rmsprop": 0.03, "natural": 0.5,
    "ais": 0.1, "centre": 0.1, "straight-through": 0.1,
}  # fmt: skip
"""Rate per datum. Of continuous latents it is that of the first step and falls linearly; a natural
step of rate 1 is Newton's. Of binary ones it is the damping factor of `ais`, else Adam's."""

DRAWS = {
    "adam": 5, "sgd": 5, "rmsprop": 5, "natural": 2, "ais": 20, "centre": 0, "straight-through": 20
}  # fmt: skip
"""Draws in one step. A natural step leaves little to chance, and two are an antithetic pair;
centre passing draws nothing."""

_JUDGED, _REPORTED = 6, 16
_JUDGED_BINARY, _REPORTED_BINARY = 20, 100

FULL_DRAWS = 10
"""Those of a natural step of a full covariance, which learns many more."""

FLOW_RATE = 0.1
"""Share of those rates that the weights of a flow take."""

_MATRIX = re.compile(r"mn:(\d+)x(\d+)")
_MATRIX_HINT = "Use --family mn:4x5 for 20 latents, as 4 rows of 5."


def matrix_shape(family: str) -> tuple[int, int] | None:
    """Return rows and columns of `mn:RxC`, or None where it is no such name.

    >>> matrix_shape("mn:5x4")
    (5, 4)
    """
    match = _MATRIX.fullmatch(family)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class RefineConfig:
    """How the posterior of each datum is refined, starting from the encoder's.

    Args:
        family: Form of the posterior: `diag`, `full`, `flow`, or `mn:RxC` for latents that are
            seen as a matrix of R rows and C columns.
        optimiser: One of `OPTIMISERS`, or of `BINARY_OPTIMISERS` for binary latents; `natural`
            is for Gaussian families. None takes `natural`, of a flow `adam`, and for binary
            latents `ais`.
        steps: Gradient steps K.
        samples: Draws S of each posterior in one step; None takes those of the optimiser and
            family.
        lr: Learning rate per datum at the first step; None takes that of the optimiser.
        batch_size: Data that are refined at once; it changes no result.
        judge_samples: Fixed draws per datum that judge iterates, and as many that decide; None
            takes 6, for binary latents 20.
        report_samples: Fresh draws per datum behind the bounds before and after, of binary
            latents as many that decide; None takes 16, for binary latents 100.
        seed: Seed of all random numbers.

    Raises:
        UsageError: A value has no meaning.
    """

    family: str = "diag"
    optimiser: str | None = None
    steps: int = 20
    samples: int | None = None
    lr: float | None = None
    batch_size: int = 200
    judge_samples: int | None = None
    report_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        plain = "mn:RxC" if matrix_shape(self.family) else self.family
        for option, name, known in (
            ("--family", plain, FAMILIES),
            ("--optimiser", self.method, OPTIMISERS + BINARY_OPTIMISERS),
        ):
            if name not in known:
                raise _refused(option, name, "it is not known", did_you_mean(name, known))
        if self.family == "mn:RxC":
            raise _refused("--family", self.family, "R and C stand for numbers", _MATRIX_HINT)
        if 0 in (matrix_shape(self.family) or ()):
            raise _refused("--family", self.family, "rows and columns must be at least 1")
        for option, value, least in (
            ("--steps", self.steps, 0),
            ("--samples", 1 if self.samples is None else self.samples, 1),
            ("--batch-size", self.batch_size, 1),
            ("--judge-samples", self.judged, 2),
            ("--report-samples", self.reported, 2),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise _refused(option, value, f"it must be at least {least}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise _refused("--lr", self.lr, "it must be a number above 0")
        if self.family == "flow" and self.method == "natural":
            why = "natural gradients are known for Gaussian families only"
            raise _refused("--optimiser", self.method, why, "Use --optimiser adam.")
        self._check_binary()

    def _check_binary(self) -> None:
        """Refuse what means nothing beside an optimiser of binary latents."""
        name = self.method
        if name in BINARY_OPTIMISERS and self.family != "diag":
            why = f"{name} refines binary latents, whose posterior is a Bernoulli of each"
            raise _refused("--family", self.family, why, "Leave it out.")
        if name in BINARY_OPTIMISERS and self.steps < 1:
            raise _refused("--steps", self.steps, f"{name} takes at least 1")
        if name == "ais" and self.rate > 1:
            why = "the damping factor of ais is at most 1"
            raise _refused("--lr", self.rate, why, f"Use --lr {RATES[name]}.")
        if name == "centre" and self.samples is not None:
            why = "centre passing decodes the mean and draws nothing"
            raise _refused("--samples", self.samples, why, "Leave it out.")

    def for_latents(self, *, binary: bool) -> RefineConfig:
        """Return it with the optimiser settled by the kind of the latents.

        Args:
            binary: Whether they are.

        Raises:
            UsageError: Optimiser or family are for the other kind.
        """
        name = self.optimiser or ("ais" if binary else self.method)
        if (name in BINARY_OPTIMISERS) != binary:
            *most, last = BINARY_OPTIMISERS if binary else OPTIMISERS
            why = f"the latents of this net are {'binary' if binary else 'continuous'}"
            hint = f"Use --optimiser {', '.join(most)} or {last}."
            raise _refused("--optimiser", name, why, hint)
        if binary and self.family != "diag":
            why = "the latents of this net are binary, and their posterior is a Bernoulli of each"
            raise _refused("--family", self.family, why, "Leave it out.")
        return replace(self, optimiser=name)

    @property
    def method(self) -> str:
        """The optimiser; where none is named, that of continuous latents."""
        return self.optimiser or ("adam" if self.family == "flow" else "natural")

    @property
    def judged(self) -> int:
        """Draws that judge iterates, and of continuous latents as many that decide."""
        if self.judge_samples is not None:
            return self.judge_samples
        return _JUDGED_BINARY if self.method in BINARY_OPTIMISERS else _JUDGED

    @property
    def reported(self) -> int:
        """Draws behind the bounds before and after."""
        if self.report_samples is not None:
            return self.report_samples
        return _REPORTED_BINARY if self.method in BINARY_OPTIMISERS else _REPORTED

    @property
    def rate(self) -> float:
        """The learning rate at the first step."""
        if self.lr is not None:
            return self.lr
        return RATES[self.method] * (FLOW_RATE if self.family == "flow" else 1.0)

    @property
    def draws(self) -> int:
        """Draws of each posterior in one step."""
        if self.samples is not None:
            return self.samples
        many = self.family == "full" and self.method == "natural"
        return FULL_DRAWS if many else DRAWS[self.method]


@dataclass(frozen=True)
class VaeRefineConfig:
    """What `vae-refine` does: the refinement, and what it is held against.

    Args:
        refine: The refinement.
        limit: First test data that are refined; None takes all.
        importance: Numbers of importance samples, rising; a figure for each, from the encoder's
            and from the refined posterior.
        gap: Data on which the gap to log p(x) is split; 0 leaves it out.
        gap_samples: Importance samples behind log p(x) there.
        ood: Data of other domains, which likelihood regret should tell apart.
        ood_limit: Most of them.
        formats: `onnx`, or nothing.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None takes torch's own choice.

    Raises:
        UsageError: A value has no meaning.
    """

    refine: RefineConfig = field(default_factory=RefineConfig)
    limit: int | None = 1000
    importance: tuple[int, ...] = (100, 500)
    gap: int = 100
    gap_samples: int = 2000
    ood: tuple[str, ...] = ()
    ood_limit: int = 1000
    formats: tuple[str, ...] = ("onnx",)
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_counts(
            (
                ("--limit", 1 if self.limit is None else self.limit, 1),
                ("--gap", self.gap, 0),
                ("--ood-limit", self.ood_limit, 2),
            )
        )
        check_rising("--importance", self.importance)


def _refused(option: str, value: object, why: str, hint: str = "") -> UsageError:
    return UsageError(f"Reading {option}", repr(value), why, hint)
