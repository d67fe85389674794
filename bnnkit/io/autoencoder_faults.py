"""Why a half of somebody's autoencoder stopped: a shape, an input too many, or its own fault."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from torch import nn

from bnnkit.errors import UsageError
from bnnkit.io.autoencoder_forms import AutoencoderForm, quoted
from bnnkit.io.factories import describe_exception, home_of

__all__ = ["is_of_shapes", "refuse_conditions", "refuse_fault"]

_MOST = 300
_SHAPES = re.compile(
    r"\b(shapes?|sizes?|dim|dimensions?|dimensional|[1-5]d|mat1|channels?|features?|numel|elements?"
    r"|broadcast\w*|unflatten|unpack|expand\w*|index|rank|input)\b",
    re.IGNORECASE,
)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def is_of_shapes(error: Exception) -> bool:
    """Tell whether an error speaks of the shape of an input, as torch does and assertions may."""
    text = str(error)
    if isinstance(error, AssertionError) and not text:
        return True
    return "dtype" not in text.lower() and _SHAPES.search(text) is not None


def refuse_conditions(form: AutoencoderForm, method: str, half: Callable[..., object]) -> None:
    """Refuse a half that wants more than images or latents.

    Args:
        form: The autoencoder.
        method: `encode` or `decode`.
        half: What the owner wrote for it.

    Raises:
        UsageError: It does.
    """
    wanted = _required(half)
    if len(wanted) < 2:
        return
    reads = "images" if method == "encode" else "latents"
    raise UsageError(
        f"Running {method!r} of {form.name!r}", f"the inputs {quoted(wanted)}",
        f"it is given {reads} alone: a conditional net is judged under one condition at a time",
        "Name a factory with --arch file.py:factory whose encode(x) and decode(z) hold the "
        "condition fixed.",
    )  # fmt: skip


def refuse_fault(form: AutoencoderForm, what: str, error: Exception) -> None:
    """Refuse code that stopped for a reason of its own, with its file and line.

    Args:
        form: The autoencoder.
        what: What was asked of it.
        error: What it raised.

    Raises:
        UsageError: The error is not about shapes.
    """
    if is_of_shapes(error):
        return
    place = (form.model.arch or "").rpartition(":")[0]
    lines = describe_exception(error, home_of(place) if place else None).splitlines()
    raise UsageError(
        what, lines[0][:_MOST], "its own code stops before it returns",
        "Correct it, or run it in the environment that it was written for.",
    ) from error  # fmt: skip


def _required(half: Callable[..., object]) -> list[str]:
    """Return the names of inputs without which it cannot be called."""
    called = half.forward if isinstance(half, nn.Module) else half
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # compiled code tells none
        return []
    return [p.name for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]
