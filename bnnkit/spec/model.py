"""How a model is named: a file, and an architecture where the file has only tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["ModelSpec"]


@dataclass(frozen=True)
class ModelSpec:
    """A model as its owner names it.

    Args:
        file: Path of the file or run directory; None means fresh weights of `arch`.
        arch: `torchvision:NAME`, `timm:NAME`, `bnnkit:NAME`, `pkg.mod:factory` or
            `path/to/file.py:factory`; None where the file carries its own graph or plan.
        arch_args: Keyword arguments of the factory (`--arch-arg num_classes=10`).
        state_key: Which entry of a training checkpoint holds the weights.
        trust_pickle: Whether the owner allowed a pickled module to run its code.
        input_shape: `[channels, height, width]` (or `[features]`) of one input, without batch.
        arch_digest: sha256 of the factory's source file, where there is one.
    """

    file: str | None = None
    arch: str | None = None
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    state_key: str | None = None
    trust_pickle: bool = False
    input_shape: tuple[int, ...] | None = None
    arch_digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as a JSON-safe dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, after JSON as well.

        Raises:
            TypeError: A field is unknown, or of another kind.
            ValueError: A size is no number.
        """
        fields = dict(body)
        if fields.get("input_shape") is not None:
            fields["input_shape"] = tuple(int(n) for n in fields["input_shape"])
        return cls(**fields)
