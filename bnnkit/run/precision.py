"""Number format and memory layout of training, chosen by what the device has units for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError

__all__ = ["Precision", "choose_device", "choose_precision", "full_precision"]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Let a GPU multiply in float32 and not in TF32, whose three digits would be measured.

    torch rounds the inputs of convolutions on CUDA to TF32 by default.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products


@dataclass(frozen=True)
class Precision:
    """How the forward pass computes.

    Args:
        name: `fp32` or `bf16`.
        channels_last: Whether images are laid out with channels last.
    """

    name: str
    channels_last: bool

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def place(self, x: Tensor, device: torch.device) -> Tensor:
        """Move a batch to the device in the layout of this precision."""
        x = x.to(device, non_blocking=True)
        if self.channels_last and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x

    def prepare(self, model: nn.Module) -> nn.Module:
        """Lay the filters of a model out accordingly."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model


def choose_device(name: str) -> torch.device:
    """Return the device that `--device` means.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise UsageError(
            "Choosing a device", repr(name), "it is not known", "Use auto, cpu or cuda."
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "Choosing a device", "'cuda'", "this machine or build of torch has no CUDA device",
            "Use --device auto.",
        )  # fmt: skip
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the format that `--precision` means on a device.

    `auto` goes by what the hardware has matrix units for and not by a timing, so that the same
    seed on the same machine gives the same plan.

    Raises:
        UsageError: The name is not known.
    """
    if name not in {"auto", "fp32", "bf16"}:
        raise UsageError(
            "Choosing a precision", repr(name), "it is not known", "Use auto, fp32 or bf16."
        )
    fast = _bf16_units(device)
    chosen = "bf16" if name == "bf16" or (name == "auto" and fast) else "fp32"
    return Precision(chosen, channels_last=chosen == "bf16" and fast)


def _bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return probe is not None and bool(probe())
