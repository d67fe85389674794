"""The module behind an autoencoder's file, and its two halves as they answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError, UsageError
from bnnkit.io.autoencoder_answers import Answer, read_answer
from bnnkit.io.autoencoder_layouts import layout_of
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.models import LoadedModel, load_model
from bnnkit.io.sniff import FileKind, sniff
from bnnkit.spec import ModelSpec, Plan
from bnnkit.zoo import INPUT_SHAPES

__all__ = ["AutoencoderForm", "OfForm", "open_parts", "quoted"]

_NAMED = 4


def quoted(names: Sequence[str]) -> str:
    """Write a few names in quotes.

    >>> quoted(["fc_mu", "fc_var"])
    "'fc_mu', 'fc_var'"
    """
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + rest


@dataclass(frozen=True, eq=False)
class AutoencoderForm:
    """A module with an encoder and a decoder, of which nothing is known yet.

    Args:
        name: What its owner calls it.
        module: In eval mode, on its device.
        model: File and architecture, with everything that was inferred.
        shape: Shape of one image where file, architecture or owner states it.
        plan: Of the file.
        notes: What was picked or assumed, one sentence each.
        spread: A sentence on the reading of the encoder's spread, where names alone told it.
    """

    name: str
    module: nn.Module
    model: ModelSpec
    shape: tuple[int, ...] | None
    plan: Plan | None
    notes: tuple[str, ...]
    spread: str = ""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def encoder(self) -> Callable[[Tensor], object]:
        """The owner's method or module that encodes."""
        return _half(self.module, "encode", "encoder")

    @property
    def decoder(self) -> Callable[[Tensor], object]:
        """The owner's method or module that decodes."""
        return _half(self.module, "decode", "decoder")

    @property
    def beside(self) -> tuple[str, ...]:
        """Layers that are run by neither half, where both are modules and no methods."""
        halves = (self.encoder, self.decoder)
        if not all(isinstance(half, nn.Module) for half in halves):
            return ()
        return tuple(
            name
            for name, child in self.module.named_children()
            if child not in halves and next(child.parameters(), None) is not None
        )

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the encoder gives for inputs `[n, ...]`."""
        return self.encode_named(x).tensors

    def encode_named(self, x: Tensor) -> Answer:
        """Return the same with the names that its owner gave.

        The owner's code gets a copy, since it may write into what it reads.
        """
        return read_answer(self.encoder(x.clone()), "encoder")

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return what the decoder gives for latents `[m, ...]`."""
        return self.decode_named(z).tensors

    def decode_named(self, z: Tensor) -> Answer:
        """Return the same with the names that its owner gave, the mean first where these tell."""
        return read_answer(self.decoder(z.clone()), "decoder").mean_first()


class OfForm:
    """What is known of an autoencoder's form is told of the autoencoder as well."""

    form: AutoencoderForm

    @property
    def name(self) -> str:
        """What its owner calls it."""
        return self.form.name

    @property
    def module(self) -> nn.Module:
        """The module, in eval mode, on the device."""
        return self.form.module

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.form.device

    @property
    def plan(self) -> Plan | None:
        """The plan that its file carried."""
        return self.form.plan


def open_parts(spec: ModelSpec, *, seed: int = 0, device: str = "cpu") -> AutoencoderForm:
    """Open the module of an autoencoder, in eval mode.

    Args:
        spec: A run directory or a file with a plan; tensors in a layout that their names tell; or
            tensors with an architecture, such as a factory in the user's own file.
        seed: Seed of fresh weights, where there is no file.
        device: `cpu` or `cuda`.

    Raises:
        ArchitectureError: The architecture is missing or does not fit.
        FileRefusedError: The file cannot be read.
        StructureError: The module has no encoder or no decoder.
        UsageError: There is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            "Opening an autoencoder", f"device {device!r}", "torch sees no CUDA device",
            "Use 'cpu'.",
        )  # fmt: skip
    loaded, notes, spread = _load(spec, seed)
    module = loaded.module.to(device).eval()
    name = str(loaded.spec.arch) if spec.file is None else Path(spec.file).name
    for method, part in (("encode", "encoder"), ("decode", "decoder")):
        if not _has_half(module, method, part):
            raise StructureError(
                f"Opening the autoencoder {name!r}",
                f"a {type(module).__name__} without {method!r} and without {part!r}",
                "it must be told apart what encodes and what decodes",
                "Name a factory with --arch file.py:factory, whose module has the methods "
                "encode(x) and decode(z).",
            )
    if any(p.dtype == torch.float64 for p in module.parameters()):
        module.float()
        notes.append("Its float64 weights were converted to float32.")
    shape = spec.input_shape or loaded.spec.input_shape
    form = AutoencoderForm(
        name,
        module,
        loaded.spec,
        _as_image(shape, loaded.spec.arch),
        loaded.plan,
        tuple(notes),
        spread,
    )
    return replace(form, notes=(*form.notes, *_not_run(form)))


def _not_run(form: AutoencoderForm) -> list[str]:
    """Say which layers of the owner's net no half runs."""
    if not form.beside:
        return []
    return [
        f"Its layers {quoted(form.beside)} lie beside its encoder and its decoder, and are not "
        "run; methods encode(x) and decode(z) would run them."
    ]


def _load(spec: ModelSpec, seed: int) -> tuple[LoadedModel, list[str], str]:
    """Load the module; where only tensors are there, by the layout that their names tell."""
    if spec.file is None or spec.arch is not None:
        loaded = load_model(spec, seed=seed)
        return loaded, list(loaded.notes), ""
    info = sniff(spec.file)
    # code that its owner trusts says more than names do
    if info.kind is not FileKind.ONNX and not (spec.trust_pickle and info.classes):
        checkpoint = read_checkpoint(spec.file, state_key=spec.state_key, harvest=True)
        layout = None
        if checkpoint.plan is None:
            layout = layout_of(checkpoint.tensors, spec.input_shape)
        if layout is not None:
            args = {**layout.arch_args, **spec.arch_args}
            loaded = load_model(replace(spec, arch=layout.arch, arch_args=args), seed=seed)
            return loaded, [*loaded.notes, *layout.notes], layout.spread
    loaded = load_model(spec, seed=seed)
    return loaded, list(loaded.notes), ""


def _as_image(shape: tuple[int, ...] | None, arch: str | None) -> tuple[int, ...] | None:
    """Read features as the zoo's image, or a square number as a grey square; others are open."""
    if shape is None or len(shape) == 3:
        return shape
    usual = INPUT_SHAPES.get((arch or "").removeprefix("bnnkit:"), ())
    if usual and math.prod(usual) == shape[0]:
        return usual
    side = math.isqrt(shape[0])
    return (1, side, side) if side * side == shape[0] else None


def _has_half(module: nn.Module, method: str, part: str) -> bool:
    return callable(getattr(module, method, None)) or isinstance(
        getattr(module, part, None), nn.Module
    )


def _half(module: nn.Module, method: str, part: str) -> Callable[[Tensor], object]:
    """Return the method, which may do more than the part, or the part."""
    found = getattr(module, method, None)
    half: Callable[[Tensor], object] = found if callable(found) else getattr(module, part)
    return half
