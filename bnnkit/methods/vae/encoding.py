"""What an encoder gives for a datum: the mean and log sigma of its Gaussian, and its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Encoded", "FeatureTap", "used_parameters"]


class Encoded(NamedTuple):
    """The encoder's Gaussian, and what it was made of.

    Args:
        mean: `[n, d]`.
        log_sigma: `[n, d]`.
        features: `[n, f]`.
    """

    mean: Tensor
    log_sigma: Tensor
    features: Tensor


class FeatureTap:
    """An encoder with the features that its last fully connected layer reads.

    Where it has none, mean and log sigma are the features. The encoder's code is not changed: a
    hook on that layer keeps its input while it encodes.

    Args:
        encode: Data `[n, D]` to mean and log sigma, each `[n, d]`.
        module: What it runs.
        example: Data to find the layer with, `[n, D]`.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], tuple[Tensor, ...]],
        module: nn.Module,
        example: Tensor,
    ) -> None:
        self._encode = encode
        self._read: Tensor | None = None
        self._layer = _last_linear(encode, module, example)
        with torch.no_grad():
            self.width = self(example).features.shape[1]

    def __call__(self, x: Tensor) -> Encoded:
        """Encode data `[n, D]`."""
        if self._layer is None:
            mean, log_sigma = self._encode(x)
            return Encoded(mean, log_sigma, torch.cat([mean, log_sigma], 1))
        hook = self._layer.register_forward_pre_hook(self._keep)
        try:
            mean, log_sigma = self._encode(x)
        finally:
            hook.remove()
        assert self._read is not None  # the layer has run
        features, self._read = self._read, None
        return Encoded(mean, log_sigma, features)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._read = inputs[0]


def _last_linear(
    encode: Callable[[Tensor], object], module: nn.Module, example: Tensor
) -> nn.Linear | None:
    """Return the fully connected layer that runs last, on one vector a datum."""
    ran: list[tuple[nn.Linear, torch.Size]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)  # hooked for that
        ran.append((layer, inputs[0].shape))

    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            encode(example)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        return None
    last, shape = ran[-1]
    return last if len(shape) == 2 and shape[0] == len(example) else None


def used_parameters(run: Callable[[], Tensor | tuple[Tensor, ...]], module: nn.Module) -> set[str]:
    """Return the names of the parameters that a computation depends on.

    Args:
        run: Does the computation.
        module: Whose parameters these are.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    with torch.enable_grad():
        out = run()
        parts = (out,) if isinstance(out, Tensor) else out
        total = torch.stack([p.double().sum() for p in parts if p.requires_grad]).sum()
        grads = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    return {name for (name, _), grad in zip(named, grads, strict=True) if grad is not None}
