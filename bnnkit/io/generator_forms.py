"""One callable face for every form that a generator comes in: latents to raw outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import FileRefusedError, UsageError
from bnnkit.graph.outputs import main_output
from bnnkit.io.faults import FileFault, reading
from bnnkit.io.models import load_model
from bnnkit.io.pt2 import read_pt2
from bnnkit.io.sessions import OnnxModel
from bnnkit.io.sniff import FileInfo, FileKind, sniff, vet
from bnnkit.spec import ModelSpec

__all__ = ["Decoder", "GeneratorForm", "open_form"]

_PROGRAMS = (FileKind.TORCHSCRIPT, FileKind.PT2, FileKind.ONNX)


class Decoder(nn.Module):
    """The decoder of an autoencoder as a module of its own.

    Args:
        model: A module with a method `decode`; its encoder comes along unused.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents `[n, ...]`."""
        return main_output(self.model.decode(z))  # type: ignore[operator]


@dataclass(eq=False)
class GeneratorForm:
    """A generator that runs.

    Args:
        name: What the owner calls it.
        form: `torch`, `torchscript`, `pt2` or `onnx`.
        run: Maps latents `[n, ...]`, and labels where it takes them, to its raw main output.
        device: Where it computes.
        dtype: Type of the latents that it reads.
        module: The torch module behind it; None where onnxruntime runs it.
        reads: Shape of one latent where the form states it, None for sizes that it leaves open.
        inputs: How many tensors a captured program takes; None for modules.
        notes: What was picked or assumed, one sentence each.
    """

    name: str
    form: str
    run: Callable[..., Tensor]
    device: torch.device
    dtype: torch.dtype = torch.float32
    module: nn.Module | None = None
    reads: tuple[int | None, ...] | None = None
    inputs: int | None = None
    notes: list[str] = field(default_factory=list)

    def __call__(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the raw output `[n, ...]` for latents `[n, ...]`, on this device."""
        z = z.to(self.device, self.dtype)
        if labels is None:
            return self.run(z)
        return self.run(z, labels.to(self.device))


def open_form(spec: ModelSpec, *, seed: int = 0, device: str = "cpu") -> GeneratorForm:
    """Open a generator of any form, in eval mode.

    Args:
        spec: A TorchScript, `.pt2` or ONNX file, or tensors with an architecture, or a run
            directory. With an architecture, the tensors of a program are put into that.
        seed: Seed of fresh weights, where there is no file.
        device: `cpu` or `cuda`.

    Raises:
        ArchitectureError: The architecture is missing or does not fit.
        FileRefusedError: The file cannot be read, or takes other inputs.
        UsageError: There is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            "Opening a generator", f"device {device!r}", "torch sees no CUDA device", "Use 'cpu'."
        )
    if spec.file is not None and spec.arch is None:
        info = sniff(spec.file)
        if info.kind in _PROGRAMS:
            vet(info, trust_pickle=spec.trust_pickle)
            return _open_program(info, device)
    loaded = load_model(spec, seed=seed)
    name = Path(spec.file).name if spec.file is not None else str(loaded.spec.arch)
    return _of_module(loaded.module, name, "torch", device, list(loaded.notes))


def _open_program(info: FileInfo, device: str) -> GeneratorForm:
    """Open a file that carries its own graph."""
    path, name = info.path, info.path.name
    if info.kind is FileKind.PT2:
        return _open_pt2(path, device)
    if info.kind is FileKind.ONNX:
        return _open_onnx(path, device)
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise FileFault(
                (str(error).strip().splitlines() or ["no message"])[0][:300],
                "torch cannot read it as TorchScript",
                "Save it again with torch.jit.save",
            ) from error
    return _of_module(module, name, "torchscript", device, [])


def _open_onnx(path: Path, device: str) -> GeneratorForm:
    """Open a graph that onnxruntime runs."""
    model = OnnxModel(path, device=device, labelled=True)

    def run(z: Tensor, labels: Tensor | None = None) -> Tensor:
        wanted, given = model.labels, None if labels is None else labels.dtype
        if wanted and given and wanted.is_floating_point != given.is_floating_point:
            raise TypeError(f"labels of dtype {wanted}, not {given}")
        return model(z, labels)

    form = GeneratorForm(
        path.name, "onnx", run, torch.device("cpu"), model.dtype,
        reads=tuple(model.shape[1:]), inputs=1 if model.labels is None else 2,
        notes=["onnxruntime runs it: no gradient flows through it."],
    )  # fmt: skip
    return _of_fixed_batch(form, model.shape[0] if model.shape else None)


def _of_module(
    module: nn.Module, name: str, form: str, device: str, notes: list[str]
) -> GeneratorForm:
    """Wrap a module; of an autoencoder, its decoder."""
    if callable(getattr(module, "decode", None)):
        module = Decoder(module)
        notes = [*notes, "It has a method 'decode': its decoder is the generator."]
    module = module.to(device).eval()

    def run(*inputs: Tensor) -> Tensor:
        if module.training:  # its owner may have gone on with the training
            module.eval()
        return main_output(module(*inputs))

    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return GeneratorForm(name, form, run, torch.device(device), dtype, module, notes=notes)


def _open_pt2(path: Path, device: str) -> GeneratorForm:
    """Open a program of torch.export; its first input tells type and sizes."""
    program = read_pt2(path)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    names = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    first = values[0] if values else None
    if not isinstance(first, Tensor) or first.dim() < 2 or len(values) > 2:
        raise FileRefusedError(
            f"Opening {str(path)!r}", f"{len(values)} inputs",
            "a generator takes latents [n, ...], and perhaps labels [n]",
            "Export it with these as its inputs.",
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    sizes = [n if isinstance(n, int) else None for n in first.shape]
    form = GeneratorForm(
        path.name, "pt2", lambda *inputs: main_output(module(*inputs)), torch.device(device),
        first.dtype, module, tuple(sizes[1:]), len(values),
    )  # fmt: skip
    return _of_fixed_batch(form, sizes[0])


def _of_fixed_batch(form: GeneratorForm, batch: int | None) -> GeneratorForm:
    """Let a program that was captured for one batch size answer any number of rows."""
    if batch is not None:
        form.run = _in_pieces(form.run, batch)
        form.notes.append(
            f"It was exported for batches of {batch}: others are cut or filled up to that."
        )
    return form


def _in_pieces(run: Callable[..., Tensor], batch: int) -> Callable[..., Tensor]:
    """Answer any number of rows with a program of a fixed batch size."""

    def piece(inputs: list[Tensor], count: int) -> Tensor:
        short = batch - count
        full = [torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) for x in inputs]
        return run(*full)[:count]

    def answer(*inputs: Tensor) -> Tensor:
        starts = range(0, len(inputs[0]), batch)
        parts = [[x[i : i + batch] for x in inputs] for i in starts]
        return torch.cat([piece(part, len(part[0])) for part in parts])

    return answer
