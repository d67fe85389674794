"""The proof of a rewrite: the same real inputs through every form of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bnnkit.errors import ArtefactError, BnnkitError
from bnnkit.io.runtimes import Predictor

__all__ = ["Check", "proof_size", "require", "verify_answers", "verify_forms"]

_CHUNK = 64
_ODD = 3
"""A batch size that no example of an export has."""


@dataclass(frozen=True)
class Check:
    """One comparison of two forms of a model.

    Args:
        name: Which forms.
        worst: The largest disagreement; infinite where an output is not a number.
        tolerance: The largest that passes.
        unit: `relative`: to the largest absolute output of the reference.
        n: Inputs compared.
        passed: Whether `worst <= tolerance`.
    """

    name: str
    worst: float
    tolerance: float
    unit: str
    n: int
    passed: bool


def verify_forms(
    reference: Predictor,
    candidates: Mapping[str, Predictor],
    inputs: Tensor,
    *,
    tolerance: float = 1e-4,
) -> list[Check]:
    """Compare the outputs of several forms with those of a reference, on real inputs.

    The figure is `max |candidate - reference| / max |reference|` in float64, the maxima over all
    inputs and outputs (the plain difference where the reference answers zeros only): no floor
    under the divisor, else any rewrite of a model with tiny outputs would pass. Each candidate
    runs three times: all inputs in batches of up to 64, the first alone (batch size 1) and the
    first three as one batch; the worst counts. An output that is not finite, or of another shape,
    is a failure.

    Args:
        reference: The form that is believed.
        candidates: The forms to prove, by name.
        inputs: Real inputs, `[n, ...]`.
        tolerance: The largest figure that passes.

    Returns:
        A check for each candidate.

    Raises:
        ArtefactError: A candidate does not run on the inputs.
    """
    expected = _batched(reference, inputs)

    def answers(name: str, count: int) -> list[Tensor]:
        try:
            return [_batched(candidates[name], inputs[:count])]
        except (BnnkitError, RuntimeError) as error:
            raise _does_not_run(name, min(_CHUNK, count), error) from error

    return [
        verify_answers(name, partial(answers, name), [expected], tolerance=tolerance)
        for name in candidates
    ]


def verify_answers(
    name: str,
    answers: Callable[[int], Sequence[Tensor]],
    expected: Sequence[Tensor],
    *,
    tolerance: float,
) -> Check:
    """Compare what a form of several inputs or outputs answers; the worst output counts.

    Each output has its own divisor; else as `verify_forms` does.

    Args:
        name: Which forms.
        answers: Returns the outputs for the first so many inputs.
        expected: The outputs for all inputs, each `[n, ...]`.
        tolerance: The largest figure that passes.
    """
    n, worst = len(expected[0]), 0.0
    for count in (n, 1, min(_ODD, n)):
        for got, whole in zip(answers(count), expected, strict=True):
            worst = max(worst, _worst(got, whole[:count]) / _scale(whole))
    return Check(name, worst, tolerance, "relative", n, bool(n) and worst <= tolerance)


def require(checks: Sequence[Check]) -> None:
    """Refuse to deliver where a check failed.

    Raises:
        ArtefactError: A form disagrees; the worst one is named.
    """
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    worst = max(failed, key=lambda check: check.worst / check.tolerance)
    names = ", ".join(repr(check.name) for check in failed)
    raise ArtefactError(
        "Checking the written model",
        f"{worst.name!r} differs by {worst.worst:.3g} ({worst.unit}) over {worst.n} inputs",
        f"the tolerance is {worst.tolerance:.3g}, and nothing is delivered that exceeds it"
        + (f"; these failed: {names}" if len(failed) > 1 else ""),
        "Keep the checkpoint and report this with the model's architecture.",
    )


def _scale(expected: Tensor) -> float:
    """Return the largest absolute output of a reference; 1 where that divides nothing."""
    largest = float(expected.abs().max())
    return largest if 0 < largest < math.inf else 1.0


def _does_not_run(name: str, batch: int, error: Exception) -> ArtefactError:
    """Word the failure of a form that opens and does not run."""
    return ArtefactError(
        "Checking the written model",
        f"{name!r} does not run at batch size {batch}",
        (str(error).strip().splitlines() or [type(error).__name__])[0][:300],
        "Leave this form out, or export it again.",
    )


def proof_size(shape: tuple[int, ...]) -> int:
    """Return how many inputs the proofs use: fewer where one input is large."""
    return 64 if math.prod(shape) <= 3 * 64 * 64 else 8


def _batched(call: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Run inputs in batches; the outputs as float64 on the CPU."""
    parts = [inputs[i : i + _CHUNK] for i in range(0, len(inputs), _CHUNK)]
    return torch.cat([call(part).detach().double().cpu() for part in parts])


def _worst(got: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinite where there is no comparing."""
    if got.shape != expected.shape or not expected.numel():
        return math.inf
    difference = float((got.double() - expected.double()).abs().max())
    return difference if math.isfinite(difference) else math.inf
