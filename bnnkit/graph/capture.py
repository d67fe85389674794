"""Capture a foreign model as ATen graphs, in eval and in train mode, without touching it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bnnkit.errors import StructureError

__all__ = ["Capture", "capture", "preserved_modes"]


@dataclass(frozen=True)
class Capture:
    """The graphs of one model.

    Args:
        eval_program: The graph in eval mode.
        train_program: The graph in train mode (auxiliary heads exist only there); None where the
            model cannot be captured in it.
        note: Why the train mode is missing, or empty.
    """

    eval_program: ExportedProgram
    train_program: ExportedProgram | None
    note: str = ""

    @property
    def programs(self) -> tuple[ExportedProgram, ...]:
        """Every graph that exists, the eval one first."""
        return tuple(p for p in (self.eval_program, self.train_program) if p is not None)


@contextlib.contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Restore the training flag of every submodule on leaving."""
    flags = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: its warnings are about its own internals."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _export(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Export with a dynamic batch where the model allows it, else with the example's batch."""
    batch = ({0: torch.export.Dim("batch", min=1, max=1 << 20)},)
    failure: Exception | None = None
    for shapes in (batch, None):
        for strict in (False, True):
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # it prints the graph it gave up
                    return torch.export.export(
                        model, (example,), dynamic_shapes=shapes, strict=strict
                    )
            except Exception as error:  # the exporter raises anything, the user's code too
                failure = failure or error
    assert failure is not None
    raise failure


def capture(model: nn.Module, example: Tensor) -> Capture:
    """Capture `model` on `example` in both modes.

    Args:
        model: Any module that `torch.export` can follow; left in the modes it was found in.
        example: `[2 or more, ...]` an input batch on the model's device.

    Raises:
        StructureError: The model does not run on the example, or cannot be captured.
    """
    with preserved_modes(model), _quiet(), torch.no_grad():
        model.eval()
        try:
            model(example)
        except Exception as error:
            raise StructureError(
                "Running the model on one batch",
                f"input {list(example.shape)} gave {type(error).__name__}: {_first_line(error)}",
                "the model and its input shape do not fit",
                "Check --input-shape and --arch-arg.",
            ) from error
        try:
            eval_program = _export(model, example)
        except Exception as error:
            raise StructureError(
                "Following the model's structure",
                f"torch.export gave {type(error).__name__}: {_first_line(error)}",
                "its forward cannot be captured as a graph",
                "Remove data-dependent Python control flow from forward.",
            ) from error
        model.train()
        try:
            return Capture(eval_program, _export(model, example))
        except Exception as error:
            return Capture(
                eval_program, None, f"not capturable in train mode: {_first_line(error)}"
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
