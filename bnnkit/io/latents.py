"""What a generator is fed with: named distributions, and samplers in the user's own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnnkit.errors import ArchitectureError, UsageError
from bnnkit.io.factories import describe_exception, home_of, importable, load_object
from bnnkit.spec.generator import LatentSpec

__all__ = ["Latent", "open_latent"]

_TRIED = 8


@dataclass(frozen=True)
class Latent:
    """A distribution of latents.

    Args:
        spec: How it is named; its shape is filled in.
        sampler: The user's own function; None for a named distribution.
    """

    spec: LatentSpec
    sampler: Callable[[int, torch.Generator], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent."""
        return self.spec.shape

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw independent latents.

        Args:
            n: How many.
            generator: Source of the draws, on the CPU.

        Returns:
            float32 `[n, *shape]` on the CPU.

        Raises:
            UsageError: The user's own sampler raised, or returned something else.
        """
        if self.sampler is not None:
            return _call(self.spec, self.sampler, n, generator)
        size = (n, *self.shape)
        if self.spec.kind == "normal":
            return torch.randn(size, generator=generator)
        unit = torch.rand(size, generator=generator)
        return unit if self.spec.kind == "unit" else 2 * unit - 1


def open_latent(spec: LatentSpec) -> Latent:
    """Open a distribution of latents; a sampler is tried, and tells the shape.

    The code of a sampler runs: it must be named by the user, never by a file.

    Args:
        spec: What the user named.

    Returns:
        The distribution.

    Raises:
        UsageError: There is no such sampler, it raises, or it does not return float latents that
            follow from the generator it is given.
    """
    if spec.source is None:
        return Latent(spec)
    place, _, item = spec.source.rpartition(":")
    try:
        found = load_object(place, item)
    except ArchitectureError as error:
        # providers of architectures have no latents
        words = error.found.removeprefix("no provider and ")
        raise _refused(
            spec, words, error.why, error.hint if words == error.found else _HINT
        ) from error
    if not callable(found):
        raise _refused(spec, f"a {type(found).__name__}", "it cannot be called", _HINT)
    first, again = (
        _call(spec, found, _TRIED, torch.Generator().manual_seed(0), any_shape=True)
        for _ in range(2)
    )
    if not torch.equal(first, again):
        raise _refused(
            spec,
            "other latents from the same seed",
            "a run could not be repeated",
            "Draw from the generator that it is given: torch.randn(n, 64, generator=generator).",
        )
    if torch.equal(first, first[:1].expand_as(first)):
        raise _refused(spec, f"{_TRIED} equal latents", "they must differ", _HINT)
    return Latent(replace(spec, shape=tuple(first.shape[1:])), found)


_HINT = "Let it be sampler(n, generator) and return latents [n, ...]."


def _call(
    spec: LatentSpec,
    sampler: Callable[[int, torch.Generator], object],
    n: int,
    generator: torch.Generator,
    *,
    any_shape: bool = False,
) -> Tensor:
    """Call the user's own sampler and check what it returns."""
    assert spec.source is not None  # callers have a factory
    home = home_of(spec.source.rpartition(":")[0])
    try:
        with importable(home), torch.no_grad():
            z = sampler(n, generator)
    except Exception as error:
        raise _refused(
            spec, describe_exception(error, home), "it stops before it returns latents", _HINT
        ) from error
    if not isinstance(z, Tensor) or not z.is_floating_point():
        kind = f"a tensor of {z.dtype}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise _refused(spec, kind, "latents are a tensor of floats", _HINT)
    if z.dim() < 2 or len(z) != n or not (any_shape or tuple(z.shape[1:]) == spec.shape):
        wanted = [n, "..."] if any_shape else [n, *spec.shape]
        raise _refused(
            spec, f"latents of shape {list(z.shape)}",
            f"{n} were asked for: [{', '.join(map(str, wanted))}]", _HINT,
        )  # fmt: skip
    if not bool(torch.isfinite(z).all()):
        raise _refused(spec, "latents that are not finite", "no generator reads them", _HINT)
    return z.detach().float().cpu()


def _refused(spec: LatentSpec, found: str, why: str, hint: str) -> UsageError:
    return UsageError(f"Drawing latents from {spec.source!r}", found, why, hint)
