"""An iteration as one ONNX file: its steps are one `Loop`, whose size does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import ArtefactError, BnnkitError
from bnnkit.graph.gradients import without_autograd
from bnnkit.io.export import (
    OPSET,
    Written,
    export_refusal,
    onnx_package,
    save_onnx,
    silence,
)

__all__ = ["Iteration", "write_loop_onnx"]

_ASKED = "Writing an ONNX loop"
_IN, _OUT = "in_of_", "out_of_"


@dataclass(frozen=True, eq=False)
class Iteration:
    """Three modules that make an iteration; each may take gradients with respect to latents.

    Args:
        start: `x` to the constants and the first state, in this order.
        step: `x`, the noise of the step, its rate `[]`, constants and state to the next state.
        finish: `x`, the last noise, constants, first state and last state to the outputs.
        constants: Names of what `start` gives and no step changes.
        state: Names of the state.
        outputs: Names of what `finish` gives.
    """

    start: nn.Module
    step: nn.Module
    finish: nn.Module
    constants: tuple[str, ...]
    state: tuple[str, ...]
    outputs: tuple[str, ...]


def write_loop_onnx(
    iteration: Iteration,
    x: Tensor,
    noise: Tensor,
    rates: Tensor,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """Write an iteration as one ONNX file with inputs `x` and `noise` and a dynamic batch.

    Args:
        iteration: Its parts, which give tensors with the batch first.
        x: Example data `[n, D]`; n is unlike every other size of what the parts give.
        noise: Example noise `[K + 1, s, n, d]`: of each step, and of the end.
        rates: Rate of each step `[K]`.
        path: The file to appear.
        metadata: Properties of the file.

    Raises:
        ArtefactError: A part cannot be traced or exported.
    """
    try:
        with torch.no_grad():
            first = iteration.start(x)
        split = len(iteration.constants)
        constants, state = first[:split], first[split:]
        rate = rates[0]
        start = _part(iteration.start, {"x": x}, [*iteration.constants, *iteration.state])
        named = _named(iteration.constants, constants)
        step = _part(
            iteration.step,
            {"x": x, "noise": noise[0], "rate": rate, **named, **_named(iteration.state, state)},
            iteration.state,
        )
        before = _named([f"{name}_before" for name in iteration.state], state)
        finish = _part(
            iteration.finish,
            {"x": x, "noise": noise[0], **named, **before, **_named(iteration.state, state)},
            iteration.outputs,
        )
        proto = _compose(iteration, start, step, finish, x, noise, rates)
        return save_onnx(proto, Path(path), [], metadata or {})
    except BnnkitError:
        raise
    except Exception as error:
        raise export_refusal(_ASKED, error, "--no-onnx") from error


def _named(names: Sequence[str], values: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(names, values, strict=True))


def _part(module: nn.Module, examples: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:  # noqa: ANN401 - onnx is imported inside
    """Return one part as an ONNX model whose batch, the axis of that size, is dynamic."""
    inputs = tuple(value.detach().cpu() for value in examples.values())
    size = inputs[0].shape[0]
    batch = torch.export.Dim("batch")
    shapes = tuple(
        {axis: batch for axis, length in enumerate(value.shape) if length == size}
        for value in inputs
    )
    graph = without_autograd(module, inputs)
    # no value inside of the graph may have the name of an input or output: the exporter renames
    # these without looking
    with silence():
        converted = torch.onnx.export(
            graph, inputs, dynamo=True, external_data=False, dynamic_shapes=shapes,
            input_names=[_IN + name for name in examples],
            output_names=[_OUT + name for name in outputs], opset_version=OPSET,
            verbose=False,
        )  # fmt: skip
    assert converted is not None  # dynamo=True always returns one
    proto = converted.model_proto
    if proto.functions:
        raise ArtefactError(_ASKED, "functions of the exporter", "a loop's body cannot call them")
    return proto


class _Graph:
    """Collects nodes and weights; equal weights of several parts are stored once."""

    def __init__(self) -> None:
        self.weights: dict[tuple[Any, ...], Any] = {}

    def inline(
        self,
        proto: Any,  # noqa: ANN401
        prefix: str,
        bound: Mapping[str, str],
    ) -> tuple[list[Any], list[str]]:
        """Return the nodes of a part under names of its own, and the names of its outputs.

        Args:
            proto: The part.
            prefix: What its names begin with.
            bound: Names of the graph around it that stand for its inputs.
        """
        names = {f"{prefix}{_IN}{own}": other for own, other in bound.items()}
        graph = onnx_package().compose.add_prefix(proto, prefix).graph
        for weight in graph.initializer:
            key = (weight.data_type, tuple(weight.dims), _bytes_of(weight))
            names[weight.name] = self.weights.setdefault(key, weight).name
        for node in graph.node:
            _rename(node, names)
            node.ClearField("metadata_props")
        return list(graph.node), [names.get(o.name, o.name) for o in graph.output]


def _bytes_of(weight: Any) -> bytes:  # noqa: ANN401
    content: bytes = onnx_package().numpy_helper.to_array(weight).tobytes()
    return content


def _rename(node: Any, names: Mapping[str, str]) -> None:  # noqa: ANN401
    """Replace names that a node reads, in the graphs inside of it as well."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                _rename(inner, names)
            for output in graph.output:
                output.name = names.get(output.name, output.name)


def _compose(
    iteration: Iteration,
    start: Any,  # noqa: ANN401
    step: Any,  # noqa: ANN401
    finish: Any,  # noqa: ANN401
    x: Tensor,
    noise: Tensor,
    rates: Tensor,
) -> Any:  # noqa: ANN401
    """Put the parts around a `Loop`."""
    helper, float_ = onnx_package().helper, onnx_package().TensorProto.FLOAT
    built, split = _Graph(), len(iteration.constants)
    nodes, made = built.inline(start, "start/", {"x": "x"})
    constants = dict(zip(iteration.constants, made[:split], strict=True))
    first = made[split:]
    body = _body(built, iteration, step, constants)
    after = [f"after/{name}" for name in iteration.state]
    nodes.append(helper.make_node("Loop", ["steps", "go", *first], after, body=body))
    nodes.append(helper.make_node("Gather", ["noise", "steps"], ["noise_end"], axis=0))
    before = {f"{n}_before": value for n, value in zip(iteration.state, first, strict=True)}
    last, ends = built.inline(
        finish,
        "finish/",
        {
            "x": "x",
            "noise": "noise_end",
            **constants,
            **before,
            **dict(zip(iteration.state, after, strict=True)),
        },
    )
    nodes += last
    nodes += [
        helper.make_node("Identity", [end], [name])
        for end, name in zip(ends, iteration.outputs, strict=True)
    ]
    steps = torch.tensor(len(rates), dtype=torch.int64)
    given = {"steps": steps, "go": torch.tensor(True), "rates": rates.detach().cpu()}
    weights = [
        onnx_package().numpy_helper.from_array(value.numpy(), name)
        for name, value in given.items()
    ]
    _, samples, _, latent = noise.shape
    graph = helper.make_graph(
        nodes,
        "iteration",
        [
            helper.make_tensor_value_info("x", float_, ["batch", *x.shape[1:]]),
            helper.make_tensor_value_info(
                "noise", float_, [len(rates) + 1, samples, "batch", latent]
            ),
        ],
        [_described(output, output.name.removeprefix(_OUT)) for output in finish.graph.output],
        [*weights, *built.weights.values()],
    )
    return helper.make_model(graph, opset_imports=start.opset_import, ir_version=start.ir_version)


def _body(built: _Graph, iteration: Iteration, step: Any, constants: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Return the body of the loop: one step, with its noise and rate picked by its number."""
    helper, types_ = onnx_package().helper, onnx_package().TensorProto
    nodes = [
        helper.make_node("Gather", ["noise", "k"], ["noise_k"], axis=0),
        helper.make_node("Gather", ["rates", "k"], ["rate_k"], axis=0),
    ]
    states = {name: f"state/{name}" for name in iteration.state}
    inner, made = built.inline(
        step, "step/", {"x": "x", "noise": "noise_k", "rate": "rate_k", **constants, **states}
    )
    nodes += inner
    nodes.append(helper.make_node("Identity", ["going"], ["go_on"]))
    nodes += [
        helper.make_node("Identity", [value], [f"next/{name}"])
        for value, name in zip(made, iteration.state, strict=True)
    ]
    types = {v.name.removeprefix(_IN): v for v in step.graph.input}

    def carried(prefix: str) -> list[Any]:
        return [_described(types[name], prefix + name) for name in iteration.state]

    scalar = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        "step",
        [
            scalar("k", types_.INT64, []),
            scalar("going", types_.BOOL, []),
            *carried("state/"),
        ],
        [scalar("go_on", types_.BOOL, []), *carried("next/")],
    )


def _described(info: Any, name: str) -> Any:  # noqa: ANN401
    """Return a tensor's description under another name."""
    copied = type(info)()
    copied.CopyFrom(info)
    copied.name = name
    return copied
