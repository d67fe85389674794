"""How a generator is named: its model, what is fed into it and what its outputs mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.model import ModelSpec

__all__ = [
    "LATENT_KINDS",
    "PIXELS",
    "GeneratorSpec",
    "LatentSpec",
    "OutRange",
    "parse_latent",
    "parse_range",
    "parse_shape",
    "shape_text",
]

LATENT_KINDS = ("normal", "uniform", "unit")
"""N(0, I), uniform on [-1, 1] and uniform on [0, 1], each coordinate independent."""

PIXELS = ("mean", "sampled")
"""Whether a decoder's output is the image, or the mean of Bernoulli pixels that are drawn."""

OutRange = tuple[float, float] | Literal["logits"]
"""Least and largest output, black and white; or `logits`, that a sigmoid maps to [0, 1]."""

_LATENT_HINT = "Use normal:64, normal:100x1x1, uniform:64, unit:64 or file.py:sampler."
_MOST_LATENT = 1 << 20
"""Most coordinates of one latent; beyond, a size was surely mistyped."""


@dataclass(frozen=True)
class LatentSpec:
    """What a generator is fed with.

    Args:
        kind: `normal` for N(0, I), `uniform` for U[-1, 1], `unit` for U[0, 1], or `factory`.
        shape: Shape of one latent, without the batch; empty for a factory, which decides itself.
        source: `path/to/file.py:sampler` or `pkg.mod:sampler` of a factory: a function
            `sampler(n, generator)` that returns latents `[n, ...]`.

    Raises:
        UsageError: The parts do not go together.
    """

    kind: str
    shape: tuple[int, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        factory = self.kind == "factory"
        sound = (
            (factory or self.kind in LATENT_KINDS)
            and factory == bool(self.source)
            and (factory or bool(self.shape))
            and all(n > 0 for n in self.shape)
            and math.prod(self.shape) <= _MOST_LATENT
        )
        if not sound:
            raise UsageError(
                "Reading --latent",
                f"kind {self.kind!r}, shape {shape_text(self.shape)}, source {self.source!r}",
                "it is a distribution with the shape of one latent, or a sampler",
                _LATENT_HINT,
            )

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> LatentSpec:
        """Read what `dataclasses.asdict` wrote.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is of another kind.
            UsageError: The values mean nothing.
            ValueError: Likewise.
        """
        source = body["source"]
        shape = tuple(int(n) for n in body["shape"])
        return cls(str(body["kind"]), shape, None if source is None else str(source))

    def __str__(self) -> str:
        """Write it as `--latent` reads it."""
        return self.source or f"{self.kind}:{shape_text(self.shape)}"


@dataclass(frozen=True)
class GeneratorSpec:
    """A generator as its owner names it.

    Args:
        model: File and architecture.
        latent: What it is fed with.
        out_range: What its outputs mean; None reads the range off the outputs, where they leave
            no doubt.
        shape: `(channels, height, width)` of its images; None takes that of its outputs.
        classes: Number of classes of a class-conditional generator, which is called with latents
            and labels; None is one without labels.
        pixels: `mean` takes outputs as images, `sampled` draws Bernoulli pixels with these means.

    Raises:
        UsageError: A value has no meaning.
    """

    model: ModelSpec
    latent: LatentSpec
    out_range: OutRange | None = None
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    pixels: str = "mean"

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise UsageError(
                "Reading --pixels", repr(self.pixels), "", did_you_mean(self.pixels, PIXELS)
            )
        if self.classes is not None and self.classes < 2:
            raise UsageError(
                "Reading --conditional", str(self.classes), "the classes are 2 or more",
                "Leave it out where the generator takes no labels.",
            )  # fmt: skip
        if self.out_range is not None and self.out_range != "logits":
            _check_range(*self.out_range)
        if self.shape is not None and (len(self.shape) != 3 or min(self.shape) < 1):
            raise _bad_shape(shape_text(self.shape))

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON-safe dictionaries."""
        return {**asdict(self), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> GeneratorSpec:
        """Read what `to_dict` wrote, after JSON as well.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is of another kind.
            UsageError: The values mean nothing.
            ValueError: Likewise.
        """
        shape, classes, out = body["shape"], body["classes"], body["out_range"]
        return cls(
            model=ModelSpec.from_dict(body["model"]),
            latent=LatentSpec.from_dict(body["latent"]),
            out_range=out if out is None or out == "logits" else (float(out[0]), float(out[1])),
            shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
            classes=None if classes is None else int(classes),
            pixels=str(body["pixels"]),
        )


def shape_text(shape: tuple[int, ...]) -> str:
    """Write a shape as people do.

    >>> shape_text((1, 28, 28)), shape_text((64,))
    ('1x28x28', '64')
    """
    return "x".join(map(str, shape))


def parse_latent(text: str) -> LatentSpec:
    """Read `--latent`: a distribution with the shape of one latent, or a sampler of one's own.

    Raises:
        UsageError: It is neither.

    >>> parse_latent("normal:100x1x1")
    LatentSpec(kind='normal', shape=(100, 1, 1), source=None)
    >>> parse_latent("prior.py:sampler").source
    'prior.py:sampler'
    """
    place, _, item = text.strip().rpartition(":")
    if place in LATENT_KINDS:
        sizes = _sizes(item)
        if not sizes or math.prod(sizes) > _MOST_LATENT:
            raise UsageError(
                "Reading --latent", repr(text), f"{item!r} is not the shape of one latent",
                _LATENT_HINT,
            )  # fmt: skip
        return LatentSpec(place, sizes)
    if place and item.isidentifier() and (place.endswith(".py") or _is_module(place)):
        return LatentSpec("factory", source=f"{place}:{item}")
    word = place or item
    near = did_you_mean(word, LATENT_KINDS)
    raise UsageError(
        "Reading --latent",
        repr(text),
        "it is a distribution with the shape of one latent, or a sampler",
        near if near.startswith("Did") and _sizes(item) else _LATENT_HINT,
    )


def parse_range(text: str) -> OutRange:
    """Read `--out-range`: the outputs of black and of white, or `logits`.

    Raises:
        UsageError: It is neither.

    >>> parse_range("-1,1"), parse_range("logits")
    ((-1.0, 1.0), 'logits')
    """
    word = text.strip()
    if word == "logits":
        return "logits"
    try:
        low, high = (float(part) for part in word.split(","))
    except ValueError as error:
        raise UsageError(
            "Reading --out-range", repr(text), "it is two numbers or the word logits",
            "Use --out-range=-1,1, 0,1, 0,255 or logits.",
        ) from error  # fmt: skip
    _check_range(low, high)
    return low, high


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read `--shape`: channels, height and width of one image.

    Raises:
        UsageError: It is not three whole numbers above 0.

    >>> parse_shape("1,28,28"), parse_shape("3x32x32")
    ((1, 28, 28), (3, 32, 32))
    """
    sizes = _sizes(text)
    if len(sizes) != 3:
        raise _bad_shape(text)
    return sizes[0], sizes[1], sizes[2]


def _sizes(text: str) -> tuple[int, ...]:
    """Read `100x1x1` or `100,1,1`; nothing where it is something else."""
    parts = text.strip("[]() ").lower().replace("x", ",").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        return ()
    sizes = tuple(int(part) for part in parts)
    return sizes if min(sizes) > 0 else ()


def _is_module(place: str) -> bool:
    """Tell whether a word is a dotted module name that is no mistyped distribution."""
    return all(part.isidentifier() for part in place.split(".")) and (
        "." in place or not did_you_mean(place, LATENT_KINDS).startswith("Did")
    )


def _check_range(low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise UsageError(
            "Reading --out-range", f"{low:g},{high:g}",
            "the first number is that of black, and the second, larger, that of white",
            "Use --out-range=-1,1, 0,1, 0,255 or logits.",
        )  # fmt: skip


def _bad_shape(found: str) -> UsageError:
    return UsageError(
        "Reading --shape", repr(found), "it is channels, height and width of one image",
        "Use --shape 1,28,28.",
    )  # fmt: skip
