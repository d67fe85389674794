"""Configuration of `vae-eval`."""

from __future__ import annotations

from dataclasses import dataclass

from bnnkit.errors import UsageError

__all__ = ["VaeEvalConfig", "check_counts", "check_rising"]


def check_counts(counts: tuple[tuple[str, int, int], ...]) -> None:
    """Refuse counts that are too small.

    Args:
        counts: Option, value and least value of each.

    Raises:
        UsageError: One is.
    """
    for option, value, least in counts:
        if value < least:
            raise UsageError(f"Reading {option}", repr(value), f"it must be at least {least}")


def check_rising(option: str, samples: tuple[int, ...]) -> None:
    """Refuse numbers of importance samples that do not rise.

    Raises:
        UsageError: They do not, or there are none.
    """
    if not samples or min(samples) < 1 or list(samples) != sorted(set(samples)):
        raise UsageError(
            f"Reading {option}", ",".join(map(str, samples)) or "nothing",
            "these are numbers of importance samples, each larger than the one before",
            f"Use {option} 100,500,5000.",
        )  # fmt: skip


@dataclass(frozen=True)
class VaeEvalConfig:
    """How a pretrained autoencoder is judged.

    Args:
        limit: First test data that are used; None takes all.
        elbo_samples: Draws of q(z | x) behind the bound of one datum.
        samples: Numbers of importance samples, rising; a figure for each.
        ais: Data on which annealed importance sampling is run; 0 leaves it out.
        ais_temperatures: Its steps from the prior to the posterior.
        ais_chains: Its chains for each datum.
        latents_shown: Latents that are traversed in pictures; 0 leaves them out.
        batch_size: Data at once.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of all random numbers.

    Raises:
        UsageError: A value has no meaning.
    """

    limit: int | None = 1000
    elbo_samples: int = 100
    samples: tuple[int, ...] = (100, 500)
    ais: int = 0
    ais_temperatures: int = 1000
    ais_chains: int = 16
    latents_shown: int = 10
    batch_size: int = 100
    device: str = "auto"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(
            (
                ("--limit", 1 if self.limit is None else self.limit, 1),
                ("--elbo-samples", self.elbo_samples, 2),
                ("--ais", self.ais, 0),
                ("--ais-temperatures", self.ais_temperatures, 2),
                ("--ais-chains", self.ais_chains, 1),
                ("--latents-shown", self.latents_shown, 0),
                ("--batch-size", self.batch_size, 1),
                ("--seed", self.seed, 0),
            )
        )
        check_rising("--samples", self.samples)
