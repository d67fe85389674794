"""The logits of a decoder that gives probabilities: its last sigmoid is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["clamped_logits", "without_last_sigmoid"]

_SIGMOIDS = frozenset({
    torch.sigmoid, torch.sigmoid_, torch.special.expit, Tensor.sigmoid, Tensor.sigmoid_,
})  # fmt: skip
_EQUAL = 1e-6
_EPS = float(torch.finfo(torch.float32).eps)


class _Sigmoids(TorchFunctionMode):
    """Counts the sigmoids that run, and returns the input of one of them in place of its output.

    Args:
        skipped: Which one, from 1; 0 skips none.
    """

    def __init__(self, skipped: int = 0) -> None:
        super().__init__()
        self.skipped = skipped
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch's function returns
        """Run one function of torch."""
        named = kwargs or {}
        if func in _SIGMOIDS:
            self.count += 1
            if self.count == self.skipped:
                return args[0] if args else named["input"]
        return func(*args, **named)


def without_last_sigmoid(
    decode: Callable[[Tensor], Tensor], z: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """Return the decoder without the sigmoid that it ends in.

    The same code runs, nothing of it is copied: the last sigmoid that it calls hands on its
    input. Logits beyond 17, where float32 probabilities are 1, stay what they are.

    Args:
        decode: Latents to probabilities; any code.
        z: Latents to try it on.

    Returns:
        Latents to logits, or None where it ends in something else.
    """
    with torch.no_grad(), _Sigmoids() as sigmoids:
        probabilities = decode(z)
    last = sigmoids.count
    if not last:
        return None

    def logits(z: Tensor) -> Tensor:
        with _Sigmoids(last):
            return decode(z)

    with torch.no_grad():
        gap = (torch.sigmoid(logits(z)) - probabilities).abs().max()
    return logits if float(gap) <= _EQUAL else None


def clamped_logits(probabilities: Tensor) -> Tensor:
    """Return log p / (1 - p), with p kept from 0 and 1 by float32's epsilon."""
    return torch.logit(probabilities, eps=_EPS)
