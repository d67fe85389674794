"""A model's layers, each as a call that can be timed at any widths."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError
from bnnkit.graph.capture import preserved_modes
from bnnkit.io.export import LAYER_COPIES, write_layer_onnx
from bnnkit.io.sessions import OnnxModel
from bnnkit.run.latency.timing import Call

__all__ = ["Geometry", "Probe", "Use", "observe"]

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Geometry:
    """Everything that a layer's time depends on, beside the widths.

    Args:
        layer: Its class.
        out: Channels out at full width.
        into: Channels in at full width; of one group.
        shape: Shape of one input without its channels: before them for a linear layer, behind
            them for a convolution.
        settings: Stride, padding and the like of a convolution.
        groups: Groups of a convolution.
        bias: Whether it has one.
    """

    layer: type[nn.Module]
    out: int
    into: int
    shape: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...] = ()
    groups: int = 1
    bias: bool = True

    @property
    def depthwise(self) -> bool:
        """Whether each group reads one channel: the groups then follow the width."""
        return self.groups > 1 and self.into == 1

    def build(self, out: int, into: int, generator: torch.Generator) -> nn.Module:
        """Return the layer with other widths and random weights."""
        options: dict[str, Any] = dict(self.settings)
        if self.layer is nn.Linear:
            channels = into
        else:
            groups = max(1, out * self.groups // self.out) if self.depthwise else self.groups
            channels, options["groups"] = into * groups, groups
        # not initialised: that would draw from the global generator
        layer: nn.Module = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            self.layer, channels, out, bias=self.bias, **options
        )
        for parameter in layer.parameters():
            parameter.data.normal_(0, 0.1, generator=generator)
        return layer.eval().requires_grad_(False)

    def input_of(self, layer: nn.Module, batch: int, generator: torch.Generator) -> Tensor:
        """Return random inputs of a layer that `build` made."""
        if isinstance(layer, nn.Linear):
            rows = batch * math.prod(self.shape)
            return torch.randn(rows, layer.in_features, generator=generator)
        channels = int(layer.in_channels)  # type: ignore[arg-type]
        return torch.randn(batch, channels, *self.shape, generator=generator)

    def bytes(self, batch: int, copies: int) -> int:
        """Return about how much memory a call at half the widths holds."""
        kernel: int = math.prod(dict(self.settings).get("kernel_size", (1,)))
        weight = self.out * self.into * kernel * copies // 4
        values = math.prod(self.shape) * (self.into * self.groups + (copies + 1) * self.out) // 2
        return 4 * (weight + batch * values) + 1

    def __str__(self) -> str:
        kernel = dict(self.settings).get("kernel_size", ())
        parts = [self.layer.__name__, "x".join(map(str, kernel)), f"{self.into} to {self.out}"]
        if self.shape:
            parts.append("on " + "x".join(map(str, self.shape)))
        return " ".join(filter(None, parts))


@dataclass
class Use:
    """A layer of the model.

    Args:
        geometry: Its sizes.
        calls: How often it runs for one input.
        positions: Values that it writes in one channel, for one input and all calls.
    """

    geometry: Geometry
    calls: int = 0
    positions: int = 0


def observe(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Use]:
    """Run a model once and return its convolutions and linear layers, in running order.

    Args:
        model: The model, on any device; its modes are left as they were.
        input_shape: `[...]` of one input, without batch.

    Raises:
        StructureError: It has no such layer.
    """
    uses: dict[str, Use] = {}

    def note(name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        use = uses.setdefault(name, Use(_geometry(layer, args[0])))
        use.calls += 1
        use.positions += output.numel() // use.geometry.out

    handles = [
        layer.register_forward_hook(lambda m, args, output, name=name: note(name, m, args, output))
        for name, layer in model.named_modules()
        if isinstance(layer, _KINDS)
    ]
    parameter = next(model.parameters(), None)
    example = torch.zeros(1, *input_shape)
    try:
        with preserved_modes(model), torch.no_grad():
            model.eval()
            model(example if parameter is None else example.to(parameter))
    finally:
        for handle in handles:
            handle.remove()
    if not uses:
        raise StructureError(
            "Timing layers", "no convolution and no linear layer", "there is nothing to measure"
        )
    return uses


def _geometry(layer: nn.Module, x: Tensor) -> Geometry:
    """Return the sizes of a layer that gets `x` `[1, ...]`."""
    weight, bias = layer.weight, getattr(layer, "bias", None) is not None
    assert isinstance(weight, Tensor)
    out, into = weight.shape[:2]
    if isinstance(layer, nn.Linear):
        return Geometry(nn.Linear, out, into, tuple(x.shape[1:-1]), bias=bias)
    kind = next(k for k in _KINDS if isinstance(layer, k))
    names = ("kernel_size", "stride", "padding", "dilation")
    settings = tuple((name, getattr(layer, name)) for name in names)
    groups = int(layer.groups)  # type: ignore[arg-type]
    return Geometry(kind, out, into, tuple(x.shape[2:]), settings, groups, bias)


@dataclass(frozen=True)
class Probe:
    """Turns layers into calls under one runtime.

    Args:
        runtime: `torch` or `onnxruntime`.
        device: `cpu` or `cuda`.
        threads: CPU threads of an onnxruntime session.
        generator: Source of weights and inputs.
    """

    runtime: str
    device: str
    threads: int
    generator: torch.Generator

    @property
    def copies(self) -> int:
        """How many times a call runs its layer."""
        return LAYER_COPIES if self.runtime == "onnxruntime" else 1

    @contextmanager
    def calls(
        self, wanted: Iterable[tuple[Geometry, int, int]], batch: int
    ) -> Iterator[list[Call]]:
        """Yield a call for each `(geometry, channels out, channels in)`."""
        with tempfile.TemporaryDirectory() as folder:
            yield [self._call(*one, batch, Path(folder)) for one in wanted]

    def _call(self, geometry: Geometry, out: int, into: int, batch: int, folder: Path) -> Call:
        layer = geometry.build(out, into, self.generator)
        x = geometry.input_of(layer, batch, self.generator)
        if self.runtime == "onnxruntime":
            path = folder / "layer.onnx"  # a session has read all of it once it is open
            write_layer_onnx(layer, x, path)
            session = OnnxModel(path, device=self.device, threads=self.threads)
            return lambda: session(x)
        layer, x = layer.to(self.device), x.to(self.device)

        def call() -> Tensor:
            with torch.inference_mode():
                result: Tensor = layer(x)
                return result

        return call
