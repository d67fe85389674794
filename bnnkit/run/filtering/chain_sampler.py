"""What the samplers of `mh-filter` runs have in common, whatever their chains propose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError
from bnnkit.io.generators import Generator

__all__ = ["ChainSampler", "check_count"]


class ChainSampler(nn.Module, ABC):
    """A generator whose images go through Metropolis-Hastings chains.

    Args:
        generator: The generator.
        chain_length: Proposals offered to each chain.
        serving: `{file: its inputs}` of the ONNX files beside it.
    """

    def __init__(
        self, generator: Generator, chain_length: int, serving: Mapping[str, tuple[str, ...]]
    ) -> None:
        super().__init__()
        self.generator, self.chain_length, self.serving = generator, chain_length, dict(serving)

    def extra_repr(self) -> str:
        """Say what it samples with."""
        return f"{self.generator.name!r}, chain_length={self.chain_length}"

    def forward(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `n` images; see `sample`."""
        return self.sample(n, generator=generator)

    @abstractmethod
    def sample(
        self, n: int, *, generator: torch.Generator | None = None, chain_length: int | None = None
    ) -> Tensor:
        """Draw images from the corrected distribution, uint8 `[n, c, h, w]`."""

    def _settled(
        self, n: int, chain_length: int | None, generator: torch.Generator | None
    ) -> tuple[int, torch.Generator]:
        """Return proposals a chain and the source of draws, with their defaults filled in."""
        length = self.chain_length if chain_length is None else chain_length
        check_count(n, "images")
        check_count(length, "proposals a chain")
        return length, generator or torch.Generator().manual_seed(0)


def check_count(value: int, of: str) -> None:
    """Refuse a number of things below 1.

    Raises:
        UsageError: It is.
    """
    if value < 1:
        raise UsageError("Sampling", f"{value} {of}", "it takes 1 or more")
