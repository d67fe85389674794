"""Standard normal numbers of each datum's own: no result depends on what it is batched with."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DatumNoise", "balanced", "datum_seeds"]


def datum_seeds(count: int, generator: torch.Generator) -> Tensor:
    """Return one seed for each of `count` data, `[count]` int64."""
    return torch.randint(2**62, (count,), generator=generator, device=generator.device).cpu()


class DatumNoise:
    """Streams of normal numbers, one for each datum.

    Args:
        seeds: `[n]` int64, from `datum_seeds`.
        latent: d.
        like: A tensor of the dtype and on the device that the numbers shall have.
    """

    def __init__(self, seeds: Tensor, latent: int, like: Tensor) -> None:
        self._streams = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._latent = latent
        self._like = like

    def draw(self, samples: int, rows: Tensor | None = None) -> Tensor:
        """Return the next numbers of each stream, `[samples, n, d]`.

        Args:
            samples: How many.
            rows: Which data's streams go on, `[n]` of their indices; None means all.
        """
        chosen = self._streams if rows is None else [self._streams[i] for i in rows.tolist()]
        drawn = torch.empty(len(chosen), samples, self._latent)
        for row, stream in zip(drawn, chosen, strict=True):
            row.normal_(generator=stream)
        return drawn.transpose(0, 1).to(self._like)


def balanced(noise: Tensor) -> Tensor:
    """Return standard normal numbers `[s, ...]` that sum to zero over s, from independent ones.

    Each is standard normal by itself, so means of any function stay unbiased; those of linear
    functions are exact. Two of them are an antithetic pair.
    """
    samples = len(noise)
    if samples == 1:
        return noise
    centred: Tensor = noise - noise.mean(0)
    return centred * float((samples / (samples - 1)) ** 0.5)
