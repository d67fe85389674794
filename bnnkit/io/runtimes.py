"""One callable face for every form of a model that runs by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bnnkit.errors import DataError, FileRefusedError, UsageError
from bnnkit.graph.outputs import main_output
from bnnkit.io.pt2 import read_pt2
from bnnkit.io.sessions import OnnxModel
from bnnkit.io.sniff import FileKind, sniff

__all__ = ["Predictor", "open_predictor"]


class Predictor(Protocol):
    """A model as a function of one batch.

    Args:
        name: What the owner calls it.
        form: `torch`, `pt2`, `onnx` or `torchscript`.
        device: Where it computes: `cpu` or `cuda`.
    """

    name: str
    form: str
    device: str

    def __call__(self, x: Tensor) -> Tensor:
        """Return the main output `[b, ...]` for the inputs `[b, ...]`, on their device."""
        ...


def open_predictor(
    source: nn.Module | str | Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Predictor:
    """Open a module, a `.pt2`, an ONNX or a TorchScript file for inference.

    A module is moved to the device and put in eval mode. A form that was exported with a fixed
    batch size takes batches of any size: they are cut, and the last piece is filled up.

    Args:
        source: The module or the file. A file that holds tensors only needs its architecture
            first (`bnnkit.io.models`).
        name: What to call it; the file's stem or the class where None.
        device: `cpu` or `cuda`.
        threads: Threads of an onnxruntime session. The forms that torch runs follow
            `torch.set_num_threads`.

    Returns:
        The callable.

    Raises:
        FileRefusedError: The file is broken, hostile or of an unknown kind.
        UsageError: The file holds tensors only, or there is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            "Opening a model", f"device {device!r}", "torch sees no CUDA device", "Use 'cpu'."
        )
    if isinstance(source, nn.Module):
        return _Module(source, name or type(source).__name__, device)
    path = Path(source)
    kind = sniff(path).kind
    name = name or path.stem
    if kind is FileKind.PT2:
        return _open_pt2(path, name, device)
    if kind is FileKind.ONNX:
        model = OnnxModel(path, device=device, threads=threads)
        return _Graph(model, name, "onnx", model.device, model.dtype, model.shape)
    if kind is FileKind.TORCHSCRIPT:
        return _open_torchscript(path, name, device)
    raise UsageError(
        "Opening a model",
        f"{str(path)!r} ({kind.value})",
        "it holds tensors and no program",
        "Name its architecture with --arch.",
    )


class _Module:
    """A module in eval mode."""

    form = "torch"

    def __init__(self, module: nn.Module, name: str, device: str, form: str = "torch") -> None:
        self.module = module.to(device)
        self.name, self.form, self.device = name, form, device
        self.module.eval()

    def __call__(self, x: Tensor) -> Tensor:
        if self.module.training:  # its owner may have gone on with the training
            self.module.eval()
        with torch.inference_mode():
            return main_output(self.module(x.to(self.device))).to(x.device)


class _Graph:
    """A captured graph, which knows the type and the sizes of its input."""

    def __init__(
        self,
        run: Callable[[Tensor], Any],
        name: str,
        form: str,
        device: str,
        dtype: torch.dtype,
        shape: Sequence[int | None],
    ) -> None:
        self._run, self._dtype, self._shape = run, dtype, tuple(shape)
        self.name, self.form, self.device = name, form, device

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x)
        batch = self._shape[0] if self._shape else None
        with torch.inference_mode():
            local = x.to(self.device)
            if batch is None or batch == len(x):
                return main_output(self._run(local)).to(x.device)
            starts = range(0, len(x), batch)
            pieces = [self._piece(local[i : i + batch], batch) for i in starts]
            return torch.cat(pieces).to(x.device)

    def _piece(self, part: Tensor, batch: int) -> Tensor:
        """Run a piece, filled up with copies of its last row to the fixed batch size."""
        short = batch - len(part)
        full = torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short else part
        return main_output(self._run(full))[: len(part)]

    def _check(self, x: Tensor) -> None:
        """Refuse inputs of another type or size than the graph was captured with."""
        wanted = self._shape
        fits = x.ndim == len(wanted) and all(
            want in (None, got) for want, got in zip(wanted[1:], x.shape[1:], strict=True)
        )
        if x.dtype == self._dtype and fits and len(x):
            return
        sizes = ", ".join("*" if n is None else str(n) for n in (None, *wanted[1:]))
        raise DataError(
            f"Running {self.name!r} ({self.form})",
            f"an input of {_short(x.dtype)} {list(x.shape)}",
            f"the model takes {_short(self._dtype)} [{sizes}]",
            "Give the model's own size with --input-shape.",
        )


def _open_pt2(path: Path, name: str, device: str) -> Predictor:
    """Open a program of torch.export; its one input tells type and sizes."""
    program = read_pt2(path)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    names = program.graph_signature.user_inputs
    inputs = [n.meta.get("val") for n in program.graph.nodes if n.name in names]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        raise FileRefusedError(
            f"Opening {str(path)!r}",
            f"{len(inputs)} inputs",
            "one input tensor is needed",
            "Export the model with a single tensor as its input.",
        )
    shape = [n if isinstance(n, int) else None for n in inputs[0].shape]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    return _Graph(module, name, "pt2", device, inputs[0].dtype, shape)


def _open_torchscript(path: Path, name: str, device: str) -> Predictor:
    """Open a TorchScript file: its code runs in TorchScript's interpreter, which is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
            return _Module(module, name, device, "torchscript")
    except (RuntimeError, ValueError) as error:
        raise FileRefusedError(
            f"Opening {str(path)!r}",
            (str(error).strip().splitlines() or ["no message"])[0][:300],
            "torch cannot read it as TorchScript",
            "Save it again with torch.jit.save.",
        ) from error


def _short(dtype: torch.dtype) -> str:
    """Name a type as people write it."""
    return str(dtype).removeprefix("torch.")
