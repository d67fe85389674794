"""Settings of `vae-fit`, shared by the command line and the library."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.config import positive, refused

__all__ = [
    "BINARY_OBJECTIVES",
    "DRAWS",
    "FIT_BINARISE",
    "KL_SCHEDULES",
    "OBJECTIVES",
    "POSTERIORS",
    "PosteriorSpec",
    "VaeFitConfig",
    "parse_posterior",
]

POSTERIORS = ("diag", "mn", "full", "hvi", "iaf", "planar", "realnvp")
"""Families of q(z | x); `mn` is followed by its shape, chains and flows by their length."""

OBJECTIVES = ("elbo", "iwae", "beta", "alpha", "avo", "avo+elbo")
"""What is maximised, where the latents are continuous."""

BINARY_OBJECTIVES = ("wake-sleep", "air", "straight-through")
"""The same, where they are binary."""

KL_SCHEDULES = ("none", "linear", "exponential", "cyclical", "warm-up")
"""How the weight of the divergence grows; see `methods.vae.schedules`."""

FIT_BINARISE = ("bernoulli", "threshold", "none", "dynamic")
"""How grey pixels become zeros and ones; `dynamic` draws them anew in each epoch."""

DRAWS = {"iwae": 5, "alpha": 5, "wake-sleep": 20, "air": 20, "straight-through": 20}
"""Latents drawn for a datum in one step of an objective; of any other, one."""

_LENGTHS = {"hvi": 5, "iaf": 2, "planar": 10, "realnvp": 4}
_ESTIMATORS = ("A", "B")
_FREEZE = ("decoder", "none")
_CLOSED = ("diag", "mn", "full")


@dataclass(frozen=True)
class PosteriorSpec:
    """A family of q(z | x).

    Args:
        family: One of `POSTERIORS`.
        shape: Rows and columns that a latent of the matrix-normal family is read as.
        length: Transitions of a chain, or transformations of a flow.
    """

    family: str = "diag"
    shape: tuple[int, int] | None = None
    length: int = 0

    @property
    def closed(self) -> bool:
        """Whether its divergence from N(0, I) has a closed form."""
        return self.family in _CLOSED

    def __str__(self) -> str:
        """Write it as `--posterior` reads it.

        >>> str(parse_posterior("mn:20x2")), str(parse_posterior("hvi"))
        ('mn:20x2', 'hvi:5')
        """
        if self.shape is not None:
            return f"{self.family}:{self.shape[0]}x{self.shape[1]}"
        return f"{self.family}:{self.length}" if self.length else self.family


def parse_posterior(text: str) -> PosteriorSpec:
    """Read `diag`, `full`, `mn:20x2`, `hvi:5`, `iaf`, `planar:10`, `realnvp`.

    Raises:
        UsageError: The text is none of these.

    >>> parse_posterior("mn:20x2").shape
    (20, 2)
    """
    family, _, rest = text.partition(":")
    if family not in POSTERIORS:
        raise refused("--posterior", text, "no such family", did_you_mean(family, POSTERIORS))
    counts = rest.split("x") if rest else []
    numbers = [int(c) if c.isdigit() else 0 for c in counts]
    if min(numbers, default=1) < 1:
        raise refused("--posterior", text, "its numbers are whole and above 0",
                      "Use mn:20x2, hvi:5 or iaf:2.")  # fmt: skip
    if family == "mn":
        if len(numbers) != 2:
            raise refused("--posterior", text, "a matrix has rows and columns", "Use mn:20x2.")
        return PosteriorSpec(family, (numbers[0], numbers[1]))
    allowed = 1 if family in _LENGTHS else 0
    if len(numbers) > allowed:
        hint = f"Use {family}:{_LENGTHS[family]}." if allowed else f"Use {family}."
        raise refused("--posterior", text, f"{family} takes {allowed or 'no'} number", hint)
    return PosteriorSpec(family, None, numbers[0] if numbers else _LENGTHS.get(family, 0))


@dataclass(frozen=True)
class VaeFitConfig:
    """Everything that `vae-fit` can be told besides model and data.

    Args:
        posterior: Family of q(z | x), as `parse_posterior` reads it.
        objective: One of `OBJECTIVES`, or of `BINARY_OBJECTIVES`.
        estimator: Of the evidence lower bound: `A`, whose divergence is sampled, or `B`, with
            that in closed form (Kingma and Welling 2014, eqs. 6-7); None takes B where there is
            a closed form.
        samples: Latents drawn for a datum in one step; None takes `DRAWS`, or 1.
        beta: Weight of the divergence of the objective `beta`, after its schedule.
        alpha: Order of the Rényi bound of the objective `alpha`; 1 is the ELBO, 0 the IWAE.
        kl_schedule: One of `KL_SCHEDULES`.
        kl_epochs: Epochs of the schedule.
        beta0: Weight that it starts with.
        gamma: Increase in an epoch, of `warm-up`.
        refine: Steps of refinement of each datum's posterior before a step of learning (GBVI);
            of `air` 0 stands for 20.
        refine_lr: Rate of these steps.
        freeze: `decoder` or `none`.
        full_vb: Whether the decoder's weights have a posterior as well.
        binarise: One of `FIT_BINARISE`; None decides by the likelihood.
        validation: Share of the training data that is held out; 0 holds none out.
        patience: Epochs without a better bound there after which training stops; None never.
        epochs: Passes over the training data.
        batch_size: Images in a step.
        lr: Rate of Adam.
        weight_decay: Decoupled decay of the weights.
        nll_samples: Importance samples of the test NLL; 0 leaves it out.
        nll_limit: Test images that it is measured on.
        device: `cpu`, `cuda` or `auto`.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of weights, order, latents and pixels.

    Raises:
        UsageError: A value has no meaning, or contradicts another.
    """

    posterior: str = "diag"
    objective: str = "elbo"
    estimator: str | None = None
    samples: int | None = None
    beta: float = 1.0
    alpha: float = 0.5
    kl_schedule: str = "none"
    kl_epochs: int = 10
    beta0: float = 0.01
    gamma: float = 0.1
    refine: int = 0
    refine_lr: float = 0.1
    freeze: str = "none"
    full_vb: bool = False
    binarise: str | None = None
    validation: float = 0.1
    patience: int | None = None
    epochs: int = 10
    batch_size: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    nll_samples: int = 100
    nll_limit: int = 1000
    device: str = "auto"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_names()
        self._check_numbers()
        if self.objective not in BINARY_OBJECTIVES:
            self._check_together()

    @property
    def family(self) -> PosteriorSpec:
        """The family of q(z | x)."""
        return parse_posterior(self.posterior)

    @property
    def draws(self) -> int:
        """Latents drawn for a datum in one step."""
        return DRAWS.get(self.objective, 1) if self.samples is None else self.samples

    @property
    def analytic(self) -> bool:
        """Whether the divergence is taken in closed form: estimator B."""
        if self.objective not in ("elbo", "beta"):
            return False
        return self.family.closed if self.estimator is None else self.estimator == "B"

    def _check_names(self) -> None:
        parse_posterior(self.posterior)
        for option, name, known in (
            ("--objective", self.objective, (*OBJECTIVES, *BINARY_OBJECTIVES)),
            ("--estimator", self.estimator or "A", _ESTIMATORS),
            ("--kl-schedule", self.kl_schedule, KL_SCHEDULES),
            ("--freeze", self.freeze, _FREEZE),
            ("--binarise", self.binarise or "none", FIT_BINARISE),
        ):
            if name not in known:
                raise refused(option, name, "it is not known", did_you_mean(name, known))

    def _check_numbers(self) -> None:
        for option, number in (
            ("--lr", self.lr),
            ("--refine-lr", self.refine_lr),
            ("--beta", self.beta),
            ("--gamma", self.gamma),
        ):
            positive(option, number)
        for option, value, least in (
            ("--samples", self.draws, 1),
            ("--kl-epochs", self.kl_epochs, 1),
            ("--refine", self.refine, 0),
            ("--patience", self.patience or 1, 1),
            ("--epochs", self.epochs, 0),
            ("--batch-size", self.batch_size, 2),
            ("--nll-samples", self.nll_samples, 0),
            ("--nll-limit", self.nll_limit, 1),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise refused(option, value, f"it must be at least {least}")
        if not 0 < self.beta0 <= 1:
            raise refused("--beta0", self.beta0, "it is a weight above 0, at most 1")
        if not 0 <= self.alpha < math.inf:
            raise refused("--alpha", self.alpha, "below 0 the objective bounds nothing from below")
        if not 0 <= self.weight_decay < math.inf:
            raise refused("--weight-decay", self.weight_decay, "it must be 0 or more")
        if not 0 <= self.validation < 1:
            raise refused("--validation", self.validation, "it is a share, 0 or more and below 1")

    def _stated(self, *names: str) -> bool:
        """Tell whether one of some settings is another than its default."""
        defaults = {f.name: f.default for f in fields(self)}
        return any(getattr(self, name) != defaults[name] for name in names)

    def _check_together(self) -> None:
        """Refuse settings that contradict each other."""
        family = self.family
        for wrong, found, why, hint in (
            (self.objective in ("iwae", "alpha") and self.draws < 2,
             f"--objective {self.objective} with one sample", "with one it is the ELBO",
             "Add --samples 5."),
            (self.objective.startswith("avo") and family.family != "hvi",
             f"--objective {self.objective} with --posterior {self.posterior}",
             "annealed objectives train the transitions of a chain", "Add --posterior hvi:5."),
            (self.estimator is not None and self.objective not in ("elbo", "beta"),
             f"--estimator with --objective {self.objective}", "it is one of the ELBO",
             "Leave it out."),
            (self.estimator == "B" and not family.closed,
             f"--estimator B with --posterior {self.posterior}",
             "its divergence has no closed form", "Use --estimator A."),
            (self.kl_schedule != "none" and self.objective in ("iwae", "alpha", "avo"),
             f"--kl-schedule with --objective {self.objective}",
             "it weighs the divergence of an ELBO", "Use --objective elbo or avo+elbo."),
            (self.beta != 1 and self.objective != "beta",
             f"--beta with --objective {self.objective}", "only that objective reads it",
             "Add --objective beta."),
            (self._stated("alpha") and self.objective != "alpha",
             f"--alpha with --objective {self.objective}", "only that objective reads it",
             "Add --objective alpha."),
            (self.kl_schedule == "none" and self._stated("beta0", "gamma", "kl_epochs"),
             "--beta0, --gamma or --kl-epochs without --kl-schedule", "nothing reads it",
             "Add --kl-schedule warm-up."),
            (self.refine == 0 and self._stated("refine_lr"),
             "--refine-lr without --refine", "nothing reads it", "Add --refine 20."),
            (self.refine > 0 and (family.family != "diag" or self.objective != "elbo"),
             f"--refine with --posterior {self.posterior} and --objective {self.objective}",
             "refinement inside the training is that of a diagonal Gaussian by its ELBO",
             "Leave both at their defaults."),
            (self.patience is not None and self.validation == 0, "--patience without validation",
             "it looks at the bound on data held out", "Add --validation 0.1."),
            (self.full_vb and (self.freeze == "decoder" or self.refine > 0),
             "--full-vb with --freeze decoder or --refine",
             "the decoder's weights are what has a posterior", "Leave one out."),
            (self.full_vb and self.objective.startswith("avo"),
             f"--full-vb with --objective {self.objective}",
             "annealed objectives train the decoder's weights by a loss apart",
             "Use --objective elbo."),
            (self.full_vb and self.weight_decay > 0, "--full-vb with --weight-decay",
             "the prior of the weights takes its place", "Leave one out."),
        ):  # fmt: skip
            if wrong:
                raise UsageError("Reading the options", found, why, hint)
