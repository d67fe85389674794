"""One tensor out of whatever a foreign model returns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bnnkit.errors import StructureError

__all__ = ["MAIN_KEYS", "main_output"]

MAIN_KEYS = ("logits", "out", "output")
"""Names under which models return their main answer, the most telling first."""


def main_output(output: object) -> Tensor:
    """Return the main tensor of a model's answer.

    A tensor is itself; an object or dictionary gives its `logits`, `out` or `output` (named tuples
    of torchvision, dictionaries of segmentation nets, answers of transformers); a dictionary of
    one entry gives that entry; a tuple or list gives its first tensor (auxiliary heads follow it).

    Args:
        output: What `model(x)` returned.

    Returns:
        The tensor, `[b, ...]`.

    Raises:
        StructureError: There is no such tensor.
    """
    if isinstance(output, Tensor):
        return output
    for candidate in _candidates(output):
        if isinstance(candidate, Tensor):
            return candidate
    raise StructureError(
        "Reading the model's output",
        _describe(output),
        "none of it is known to be the main output",
        "Let the model return a tensor, a tuple that starts with it, or a dict with 'logits'.",
    )


def _candidates(output: object) -> list[object]:
    """List the parts of an answer that may be the main one, best first."""
    if isinstance(output, Mapping):
        named = [output[key] for key in MAIN_KEYS if key in output]
        return named or (list(output.values()) if len(output) == 1 else [])
    named = [getattr(output, key) for key in MAIN_KEYS if hasattr(output, key)]
    return named + (list(output) if isinstance(output, tuple | list) else [])


def _describe(output: object) -> str:
    """Say what came back, with the names of its parts."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with the entries {sorted(map(str, output))[:8]}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {[type(part).__name__ for part in output[:8]]}"
    return f"a {kind}"
