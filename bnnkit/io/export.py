"""Writers of models: ONNX, `.pt2` and safetensors. The one file that imports onnx."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import ArtefactError, BnnkitError, FileRefusedError
from bnnkit.graph.outputs import main_output
from bnnkit.io.atomic import atomic_path
from bnnkit.io.checkpoint import NOISE_PREFIX, PLAN_KEY
from bnnkit.spec import Plan

__all__ = [
    "LAYER_COPIES",
    "OPSET",
    "Written",
    "check_onnx",
    "copy_onnx",
    "export_refusal",
    "onnx_package",
    "save_onnx",
    "silence",
    "write_layer_onnx",
    "write_onnx",
    "write_pt2",
    "write_safetensors",
]

OPSET = 20
"""The ONNX operator set that is asked for; the exporter may keep an older one."""

_IR = 10
"""Version of the file format in which opset 20 came; older runtimes open no newer one."""

LAYER_COPIES = 3
"""How many times `write_layer_onnx` has its layer run, side by side."""

_ONNX_LIMIT = 2**31 - 2**20
"""Most bytes of weights in one ONNX file: protobuf ends at 2 GiB, the graph needs a little."""

_ASKED_ONNX = "Writing ONNX"
_ASKED_PT2 = "Writing .pt2"


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Args:
        path: Where it is.
        bytes: Its size.
        notes: What its owner should know (a fixed batch size, tensors stored twice).
    """

    path: Path
    bytes: int
    notes: tuple[str, ...] = ()


def onnx_package() -> Any:  # noqa: ANN401 - it has no types
    """Return the package onnx with its submodules, for those who build graphs by hand."""
    import onnx
    import onnx.compose
    import onnx.helper
    import onnx.numpy_helper

    return onnx


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    noise: Tensor | None = None,
    labels: Tensor | None = None,
    outputs: Sequence[str] = ("output",),
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """Write a module as one ONNX file: input `input`, output `output`, dynamic batch.

    Args:
        module: The model; its training flags are what they were afterwards.
        example: One batch of inputs, `[b, ...]`.
        path: The file to appear.
        noise: Noise `[k, ...]` that the module takes after its inputs: a second input `noise`,
            whose first axis `samples` is dynamic as well.
        labels: Classes, int64 `[b]`, that the module takes after its inputs: a second input
            `labels`, one for each row of the batch.
        outputs: Names of the outputs; of a module that answers with a tuple, one each.
        metadata: Properties of the file.

    Returns:
        The file; its notes say where the batch had to stay fixed, or the opset differs.

    Raises:
        ArtefactError: The model cannot be exported, or does not fit in one file.
    """
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if size > _ONNX_LIMIT:
        raise ArtefactError(
            _ASKED_ONNX,
            f"{size / 2**30:.2f} GiB of weights",
            "a single ONNX file holds less than 2 GiB",
            "Leave it out with --no-onnx; .pt2 and safetensors have no such limit.",
        )

    try:
        given = {"input": example, "noise": noise, "labels": labels}
        examples = {name: x for name, x in given.items() if x is not None}
        program, shapes, notes = _capture(module, examples, main=len(outputs) == 1)
        with silence():
            converted = torch.onnx.export(
                program,
                tuple(program.example_inputs[0]),
                dynamo=True,
                external_data=False,
                dynamic_shapes=shapes,
                input_names=list(examples),
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
        assert converted is not None  # dynamo=True always returns one
        return save_onnx(converted.model_proto, Path(path), notes, metadata or {})
    except BnnkitError:
        raise
    except Exception as error:
        raise export_refusal(_ASKED_ONNX, error, "--no-onnx") from error


def write_pt2(module: nn.Module, example: Tensor, path: str | Path) -> Written:
    """Write a module as `.pt2` (`torch.export`) with a dynamic batch, its weights on the CPU.

    Args:
        module: The model; its training flags are what they were afterwards.
        example: One batch of inputs, `[b, ...]`.
        path: The file to appear.

    Returns:
        The file; its notes say where the batch had to stay fixed.

    Raises:
        ArtefactError: The model cannot be exported.
    """
    try:
        program, _, notes = _capture(module, {"input": example})
        for node in program.graph.nodes:  # paths of this machine stay here
            node.meta.pop("stack_trace", None)
        with atomic_path(path) as part, silence():
            torch.export.save(program, part)
        return Written(Path(path), Path(path).stat().st_size, tuple(notes))
    except BnnkitError:
        raise
    except Exception as error:
        raise export_refusal(_ASKED_PT2, error, "--no-pt2") from error


def write_safetensors(
    module: nn.Module,
    path: str | Path,
    plan: Plan | None = None,
    noise: Mapping[str, Tensor] | None = None,
) -> Written:
    """Write a module's tensors as safetensors, the plan in the metadata.

    Args:
        module: The model.
        path: The file to appear.
        plan: What was removed from the architecture; None where nothing was.
        noise: Tensors of the noise that the plan describes.

    Returns:
        The file; its notes name tensors that were stored twice or left out.

    Raises:
        ArtefactError: A tensor is of a kind that safetensors cannot hold.
    """
    from safetensors.torch import save_file

    tensors, notes = _plain_tensors(module)
    for name, tensor in (noise or {}).items():
        tensors[NOISE_PREFIX + name] = tensor.detach().cpu().contiguous()
    metadata = {"format": "pt"} | ({PLAN_KEY: plan.to_json()} if plan else {})
    try:
        with atomic_path(path) as part:
            save_file(tensors, part, metadata=metadata)
            part.chmod(0o644)  # safetensors leaves 0600; the other forms can be read by all
    except (ValueError, RuntimeError, KeyError) as error:
        raise ArtefactError(
            "Writing safetensors",
            _first_line(error),
            "safetensors holds plain dense tensors only",
            "Convert the tensor to a plain one before.",
        ) from error
    return Written(Path(path), Path(path).stat().st_size, tuple(notes))


def check_onnx(path: str | Path) -> None:
    """Refuse an ONNX file that is broken, or whose weights lie outside of its folder.

    Args:
        path: The file; nothing but it is read.

    Raises:
        FileRefusedError: The file is no ONNX model, or names a file elsewhere.
    """
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    asked = f"Opening {str(path)!r}"
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise FileRefusedError(
            asked, _first_line(error), "it is not an ONNX model", "Export it again."
        ) from error
    folder = Path(path).resolve().parent
    for tensor in _get_all_tensors(model):
        if not uses_external_data(tensor):
            continue
        place = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if not place or not (folder / place).resolve().is_relative_to(folder):
            raise FileRefusedError(
                asked,
                f"weights of {tensor.name!r} in {place!r}",
                "a model may name files of its own folder only",
                "Export it again as a single file.",
            )


def copy_onnx(source: str | Path, path: str | Path) -> Path:
    """Copy an ONNX model into one file, with the weights that lie beside it.

    Args:
        source: A model that `check_onnx` lets pass.
        path: The file to appear.
    """
    import onnx

    with atomic_path(path) as part:
        onnx.save(onnx.load(str(source)), str(part), save_as_external_data=False)
    return Path(path)


def write_layer_onnx(layer: nn.Module, example: Tensor, path: str | Path) -> Path:
    """Write a layer to be timed: `LAYER_COPIES` of it read one input `x`, and are added up.

    One row of the sum is the answer, so that copying it takes no time.

    Args:
        layer: A linear layer, or a convolution that is not transposed; on the CPU.
        example: Its input: `[b, in, ...]` of a convolution, `[rows, in]` of a linear layer.
        path: The file to appear.
    """
    import onnx

    make, store = onnx.helper.make_node, onnx.numpy_helper.from_array
    operator, options = _operator(layer)
    stored, nodes, total = [], [], "y0"
    for i in range(LAYER_COPIES):
        # Each has weights of its own: equal ones would be run once.
        tensors = {f"{n}{i}": p.detach().roll(i, 0) for n, p in layer.named_parameters()}
        stored += [store(tensor.numpy(), name) for name, tensor in tensors.items()]
        nodes.append(make(operator, ["x", *tensors], [f"y{i}"], **options))
        if i:
            nodes.append(make("Add", [total, f"y{i}"], [f"sum{i}"]))
            total = f"sum{i}"
    stored += [store(torch.tensor([n]).numpy(), name) for n, name in enumerate(("from", "to"))]
    nodes.append(make("Slice", [total, "from", "to"], ["output"]))
    number, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    ends = [value("x", number, list(example.shape))], [value("output", number, None)]
    graph = onnx.helper.make_graph(nodes, "layer", *ends, stored)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=_IR), str(path))
    return Path(path)


def _operator(layer: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return the ONNX operator of a layer, and its attributes."""
    if isinstance(layer, nn.Linear):
        return "Gemm", {"transB": 1}
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    pads = list(reversed(layer._reversed_padding_repeated_twice))  # also where it is "same"
    return "Conv", {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "group": layer.groups,
        "pads": pads[1::2] + pads[::2],
    }


def save_onnx(
    proto: Any,  # noqa: ANN401
    path: Path,
    notes: list[str],
    metadata: Mapping[str, str],
) -> Written:
    """Write and check an ONNX model, without the exporter's traces of the source files."""
    import onnx

    onnx.helper.set_model_props(proto, dict(metadata))

    for node in proto.graph.node:
        node.ClearField("metadata_props")
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if opset != OPSET:
        notes.append(f"ONNX opset {opset} instead of {OPSET}.")
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param and not notes:
        notes.append("ONNX has a fixed batch size.")
    with atomic_path(path) as part:
        onnx.save(proto, str(part))
        onnx.checker.check_model(str(part))
    return Written(path, path.stat().st_size, tuple(notes))


def _capture(
    module: nn.Module, named: Mapping[str, Tensor], *, main: bool = True
) -> tuple[torch.export.ExportedProgram, tuple[Any, ...] | None, list[str]]:
    """Capture with a dynamic batch, or with the example's where the model's code fixes it."""
    examples = tuple(named.values())
    # torch.export takes sizes 0 and 1 for constants
    wide = tuple(torch.cat([x, x]) if len(x) == 1 else x for x in examples)
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples")
    shapes = tuple({0: samples if name == "noise" else batch} for name in named)
    with _exportable(module, main) as model, silence():
        try:
            program = torch.export.export(model, _on_cpu(wide), dynamic_shapes=shapes)
            _check_rows(program)
            return program, shapes, []
        except Exception as error:
            first = error
        try:
            program = torch.export.export(model, _on_cpu(examples))
        except Exception as error:
            raise error from first
    return program, None, [f"The batch size is fixed at {len(examples[0])}: {_first_line(first)}"]


def _on_cpu(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the values on the CPU, without their history."""
    return tuple(x.detach().cpu() for x in tensors)


def _check_rows(program: torch.export.ExportedProgram) -> None:
    """Refuse a dynamic capture whose answer has not a row for each input."""
    output = program.graph.output_node().args[0]
    assert isinstance(output, tuple)  # torch.export flattens every answer
    shape = output[0].meta["val"].shape
    if not shape or isinstance(shape[0], int):
        raise ValueError("the first axis of the output does not follow the batch")


@contextlib.contextmanager
def _exportable(module: nn.Module, main: bool) -> Iterator[nn.Module]:
    """Yield the module on the CPU, in eval mode, answering with its main output or with all."""
    tensors = [*module.parameters(), *module.buffers()]
    model = copy.deepcopy(module).cpu() if any(t.device.type != "cpu" for t in tensors) else module
    flags = [(m, m.training) for m in model.modules()]
    # a hook, and not a wrapper, so that the names of the tensors stay the owner's
    hook = model.register_forward_hook(
        lambda _m, _args, output: main_output(output) if main else output
    )
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        hook.remove()
        for part, training in flags:
            part.training = training


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the exporters' progress, warnings and logs off the terminal."""
    disabled = logging.root.manager.disable
    sink = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _plain_tensors(module: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state as contiguous CPU tensors of their own storage, and notes."""
    tensors: dict[str, Tensor] = {}
    notes: list[str] = []
    owners: dict[int, str] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            notes.append(f"{name!r} was left out: it is a {type(value).__name__}, not a tensor.")
            continue
        plain = value.detach().cpu().contiguous() if value.layout == torch.strided else value
        place = plain.untyped_storage().data_ptr() if plain.layout == torch.strided else 0
        if place and owners.setdefault(place, name) != name:
            notes.append(f"{name!r} shares its memory with {owners[place]!r}; both are stored.")
            plain = plain.clone()
        tensors[name] = plain
    return tensors, notes


def export_refusal(asked: str, error: Exception, option: str) -> ArtefactError:
    """Word an exporter's failure: its innermost cause, in one line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ArtefactError(
        asked,
        f"{type(cause).__name__}: {_first_line(cause)}",
        "torch.export cannot follow this model",
        f"Leave this form out with {option}, or change the code that it names.",
    )


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0][:300]
