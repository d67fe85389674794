"""The noise that a model carries: which batch-norm statistics vary, and how they are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnnkit.errors import StructureError

__all__ = [
    "MOST_NOISE",
    "MOST_SAMPLES",
    "OUTPUTS",
    "SAMPLERS",
    "TEMPERATURES",
    "NoisePlan",
]

SAMPLERS = ("factorised", "layer-gaussian", "lowrank", "replay")
"""Distributions of the statistics of all layers together."""

OUTPUTS = ("logits", "probabilities", "binary-logit", "binary-probability")
"""What a net may answer: scores of k classes (log-probabilities are such), or one number."""

MOST_SAMPLES = 10_000
"""Beyond, an average changes no digit that is printed."""

MOST_NOISE = 1 << 26
"""Most numbers of noise for one answer: a quarter of a gigabyte."""

TEMPERATURES = (1e-3, 1e3)
"""The least and the largest temperature."""


@dataclass(frozen=True)
class NoisePlan:
    """Stochastic batch norm as data; the numbers themselves are tensors beside the weights.

    Args:
        sampler: One of `SAMPLERS`.
        sites: Name of each use of a batch norm, in the order of the statistics.
        channels: Channels of each site.
        batch_size: Inputs of the batches that the statistics belong to.
        batches: Batches that they were fitted to.
        samples: Statistics drawn for one answer (K).
        outputs: What the net answers, one of `OUTPUTS`.
        temperature: Divides the logarithm of the mean probabilities.
        seed: Seed of the noise.
    """

    sampler: str
    sites: tuple[str, ...]
    channels: tuple[int, ...]
    batch_size: int
    batches: int
    samples: int = 30
    outputs: str = "logits"
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        sound = (
            self.sampler in SAMPLERS
            and self.outputs in OUTPUTS
            and len(self.sites) == len(self.channels) > 0
            and min(self.channels) > 0
            and 0 < self.samples <= MOST_SAMPLES
            and TEMPERATURES[0] <= self.temperature <= TEMPERATURES[1]
            and self.batch_size > 1
            and self.batches > 0
            and 0 <= self.seed < 1 << 63
        )
        if not sound:
            raise StructureError(
                "Reading batch-norm noise",
                f"{len(self.sites)} sites, {len(self.channels)} widths, sampler "
                f"{self.sampler!r}, {self.samples} samples, temperature {self.temperature}",
                "this is no noise that bnnkit wrote",
                "Fit it again with 'bnnkit sbn-fit'.",
            )

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> NoisePlan:
        """Read what `dataclasses.asdict` wrote.

        Raises:
            KeyError: A field is missing.
            StructureError: The values mean nothing.
            TypeError: A field is of another kind.
            ValueError: Likewise.
        """
        if any(isinstance(body[key], bool) for key in ("samples", "temperature", "seed")):
            raise TypeError("a truth value where a number belongs")
        return cls(
            sampler=str(body["sampler"]),
            sites=tuple(str(s) for s in body["sites"]),
            channels=tuple(int(c) for c in body["channels"]),
            batch_size=int(body["batch_size"]),
            batches=int(body["batches"]),
            samples=int(body["samples"]),
            outputs=str(body["outputs"]),
            temperature=float(body["temperature"]),
            seed=int(body["seed"]),
        )
