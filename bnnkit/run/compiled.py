"""A model through `torch.compile`, for the batches that come again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import TrainingError

__all__ = ["compiled"]


class _Compiled(nn.Module):
    """The same module behind kernels that are made for one batch size."""

    def __init__(self, module: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.module = module
        self.batch_size = batch_size
        self._fast: Callable[[Tensor], Any] = torch.compile(module, dynamic=False)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401
        if len(x) != self.batch_size:  # the last batch of an epoch is not worth a compilation
            return self.module(x)
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import CppCompileError

        try:
            return self._fast(x)
        except (TorchDynamoException, CppCompileError) as error:
            raise TrainingError(
                "Compiling the model (--compile)", type(error).__name__,
                str(error).strip().splitlines()[0][:200],
                "torch.compile needs a C++ compiler and a model that it can trace; "
                "leave out --compile.",
            ) from error  # fmt: skip


def compiled(module: nn.Module, batch_size: int) -> nn.Module:
    """Return a module that shares all state with `module` and runs full batches compiled.

    Args:
        module: Any module; train and eval mode of the result set that of the module.
        batch_size: Rows of a full batch; other batches run as they are.

    Returns:
        The module; called, it raises TrainingError where it cannot be compiled.
    """
    return _Compiled(module, batch_size)
