"""The first run of a generator: a latent that does not fit is told in one sentence."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, UsageError
from bnnkit.io.generator_forms import GeneratorForm
from bnnkit.io.latents import Latent
from bnnkit.spec.generator import GeneratorSpec, shape_text

__all__ = ["check_inputs", "first_output", "last_line"]


_CLASSES = "Say how many classes it is told with --conditional N."


def check_inputs(form: GeneratorForm, prior: Latent, spec: GeneratorSpec) -> None:
    """Refuse, before anything runs, inputs that a captured program does not take."""
    if form.inputs is not None and (form.inputs == 2) != (spec.classes is not None):
        needs = "latents and labels" if form.inputs == 2 else "latents only"
        hint = _CLASSES if form.inputs == 2 else "Leave --conditional out."
        given = "latents only" if spec.classes is None else f"latents and {spec.classes} classes"
        raise UsageError(
            f"Running the generator {form.name!r} on {given}", f"{form.inputs} inputs",
            f"it takes {needs}", hint,
        )  # fmt: skip
    reads = form.reads
    if reads is None:
        return
    fits = len(reads) == len(prior.shape) and all(
        want in (None, got) for want, got in zip(reads, prior.shape, strict=True)
    )
    if not fits:
        wanted = "x".join("?" if n is None else str(n) for n in reads)
        raise UsageError(
            f"Running the generator {form.name!r}",
            f"latents {str(prior.spec)!r} of {shape_text(prior.shape)}",
            f"it reads {wanted}",
            f"Use --latent {_named(prior, wanted)}." if "?" not in wanted else "",
        )


def first_output(
    form: GeneratorForm, prior: Latent, z: Tensor, labels: Tensor | None, spec: GeneratorSpec
) -> tuple[Tensor, bool]:
    """Run for the first time.

    Args:
        form: The generator.
        prior: The latents, for errors.
        z: Latents `[n, ...]`.
        labels: Labels, int64 `[n]`, where classes are stated.
        spec: What its owner said of it.

    Returns:
        The raw outputs, and whether labels had to be one-hot.

    Raises:
        UsageError: It does not read these inputs.
    """
    try:
        return form(z, labels), False
    except BnnkitError:
        raise
    except Exception as error:  # the owner's code
        first = error
    if labels is not None and spec.classes is not None:
        try:
            return form(z, F.one_hot(labels, spec.classes).float()), True
        except BnnkitError:
            raise
        except Exception as error:  # the owner's code; the other error tells of the latent too
            first = error if _speaks_of_types(first) else first
    why, hint = _cause(form, prior, z, labels, spec, last_line(first))
    raise UsageError(
        f"Running the generator {form.name!r} on latents {str(prior.spec)!r}"
        + ("" if labels is None else f" and {spec.classes} classes"),
        last_line(first), why, hint,
    ) from first  # fmt: skip


def _cause(
    form: GeneratorForm,
    prior: Latent,
    z: Tensor,
    labels: Tensor | None,
    spec: GeneratorSpec,
    message: str,
) -> tuple[str, str]:
    """Say why a generator stopped, and what to type."""
    found = _first_layer(form, z, labels)
    if found is not None and found[1] != shape_text(prior.shape):
        layer, reads = found
        why = f"its first layer, {layer}, reads {reads}"
        if spec.shape is not None and reads == str(math.prod(spec.shape)):
            return f"{why}: a whole image", "Give the decoder of this model alone."
        if labels is None:
            return why, f"Use --latent {_named(prior, reads)}."
        return why, "Give the latent that it was trained with, and its number of classes."
    if "argument" in message and labels is None:
        return "it takes more than latents", f"If that is a label: {_CLASSES}"
    if "argument" in message:
        return "it takes no labels as its second argument", "Leave --conditional out."
    if labels is not None and (known := _labels_known(form, z, labels)) > 1:
        return f"it knows the labels 0 to {known - 1} only", f"Use --conditional {known}."
    return (
        "it does not read such latents",
        "Give the shape of one latent, such as --latent normal:100x1x1.",
    )


def _labels_known(form: GeneratorForm, z: Tensor, labels: Tensor) -> int:
    """Return how many labels from 0 on a generator runs with; 0 where it stops at the first."""

    def runs(label: int) -> bool:
        try:
            form(z, torch.full_like(labels, label))
        except Exception:  # it is known to stop; the question is where
            return False
        return True

    low, high = -1, int(labels.max())  # it runs with `low`, and stops at `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if runs(middle) else (low, middle)
    return low + 1


def _named(prior: Latent, shape: str) -> str:
    """Write the option with another shape."""
    return f"{prior.spec.kind if prior.spec.source is None else 'normal'}:{shape}"


def _speaks_of_types(error: Exception) -> bool:
    """Tell whether an error is about labels being whole numbers, and not about a shape."""
    text = str(error).lower()
    return "dtype" in text or "scalar type" in text or "long" in text


def _first_layer(form: GeneratorForm, z: Tensor, labels: Tensor | None) -> tuple[str, str] | None:
    """Return the kind of the first layer that runs, and the shape of one latent that it reads."""
    if form.module is None or form.form == "pt2":
        return None
    if form.form == "torchscript":  # takes no hooks; its layers stand in the order of use
        layers = [m for m in form.module.modules() if _layer_reads(m) is not None]
    else:
        layers = _layers_that_run(form, z, labels)
    reads = _layer_reads(layers[0]) if layers else None
    return None if reads is None else (_kind(layers[0]), reads)


def _layers_that_run(form: GeneratorForm, z: Tensor, labels: Tensor | None) -> list[nn.Module]:
    """Return the layers with a width of their own, in the order in which they are called."""
    assert form.module is not None  # the caller has one
    called: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, _inputs: called.append(m))
        for module in form.module.modules()
        if _layer_reads(module) is not None
    ]
    try:
        form(z, labels)
    except Exception:  # it is known to stop; what was called before is what is asked for
        return called
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _kind(module: nn.Module) -> str:
    """Return the class of a layer, of a compiled one as well."""
    return str(getattr(module, "original_name", type(module).__name__))


def _layer_reads(module: nn.Module) -> str | None:
    """Return the shape of one input of a linear or 2-d convolutional layer, else None."""
    weight = getattr(module, "weight", None)
    kind = _kind(module)
    if not isinstance(weight, Tensor):
        return None
    if kind == "Linear":
        return str(weight.shape[1])
    if kind in ("ConvTranspose2d", "Conv2d"):
        groups = getattr(module, "groups", 1)
        channels = weight.shape[0] if kind == "ConvTranspose2d" else weight.shape[1] * groups
        return f"{channels}x1x1"
    return None


def last_line(error: Exception) -> str:
    """Return the line of a message that tells the cause: TorchScript puts its trace before it."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or ["no message"]
    line = lines[-1] if lines[0].startswith("The following operation failed") else lines[0]
    kind = type(error).__name__
    return (line if line.startswith(kind) else f"{kind}: {line}")[:300]
