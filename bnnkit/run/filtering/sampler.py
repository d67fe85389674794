"""A filtered generator that samples again: what `bnnkit.load` makes of an `mh-filter` run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError
from bnnkit.io.generators import Generator
from bnnkit.methods.mh.chains import bank_chains
from bnnkit.methods.mh.scores import score_images
from bnnkit.run.filtering.chain_sampler import ChainSampler, check_count

__all__ = ["FilteredGenerator"]

_BANK_PER_SAMPLE, _LEAST_BANK, _MOST_BANK = 10, 2000, 100_000
_BLOCK = 5000


class FilteredGenerator(ChainSampler):
    """A generator whose samples go through a Metropolis-Hastings chain.

    Args:
        generator: The generator.
        score: From images in [0, 1] (and labels) to log p/q.
        starts: Scores of real held-out images, at which chains start `[r]`.
        start_labels: Their classes `[r]`, of a class-conditional generator.
        chain_length: Proposals offered to each chain.
        serving: `{file: its inputs}` of the ONNX files beside it.
    """

    def __init__(
        self,
        generator: Generator,
        score: nn.Module,
        starts: Tensor,
        start_labels: Tensor | None,
        chain_length: int,
        serving: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(generator, chain_length, serving)
        self.score = score
        self.register_buffer("starts", starts)
        self.register_buffer("start_labels", start_labels)
        self.eval()

    starts: Tensor
    start_labels: Tensor | None

    @property
    def classes(self) -> int | None:
        """Number of classes that `sample` takes a `label` of; None without classes."""
        return self.generator.classes

    def extra_repr(self) -> str:
        """Say what it samples with."""
        told = "" if self.classes is None else f", classes={self.classes}"
        return super().extra_repr() + told

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        chain_length: int | None = None,
        bank: int | None = None,
        label: int | None = None,
    ) -> Tensor:
        """Draw images from the corrected distribution.

        Args:
            n: How many.
            generator: Source of all draws, on the CPU; seeded with 0 if None.
            chain_length: Proposals offered to each chain; that of the run if None.
            bank: Proposals that are made and scored; ten a sample if None, 2,000 to 100,000.
            label: The class, of a class-conditional generator.

        Returns:
            uint8 `[n, c, h, w]`.

        Raises:
            TrainingError: Chains refuse every proposal.
            UsageError: A number has no meaning, or the class is missing.
        """
        length, draws = self._settled(n, chain_length, generator)
        size = min(max(_BANK_PER_SAMPLE * n, _LEAST_BANK), _MOST_BANK) if bank is None else bank
        check_count(size, "proposals")
        starts = self._starts_of(label)
        labels = None if label is None else torch.full((size,), label)
        latents = self.generator.draw(size, draws)
        blocks = []
        for i in range(0, size, _BLOCK):
            rows = slice(i, i + _BLOCK)
            told = None if labels is None else labels[rows]
            blocks.append(self.generator.bytes(latents[rows], told, draws))
        images = torch.cat(blocks)
        walk = bank_chains(score_images(self.score, images, labels), starts, n, length, draws)
        return images[walk.rows]

    def _starts_of(self, label: int | None) -> Tensor:
        """Return the scores at which chains start, those of a class where there are classes."""
        starts, classes = self.starts.double(), self.classes
        if classes is None and label is None:
            return starts
        if classes is None:
            raise UsageError(
                "Sampling", f"the class {label}", "this generator is told none", "Leave label out."
            )
        assert self.start_labels is not None  # written for every such generator
        if label is None or not 0 <= label < classes:
            raise UsageError(
                "Sampling", f"the class {label}",
                f"this generator is told a class, 0 to {classes - 1}", "Pass label=.",
            )  # fmt: skip
        starts = starts[self.start_labels == label]
        if not len(starts):
            raise UsageError(
                "Sampling", f"the class {label}",
                "the run kept no real image of it, at whose score chains could start",
                "Run 'bnnkit mh-filter' again with more data, or a larger --held.",
            )  # fmt: skip
        return starts
