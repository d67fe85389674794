"""How good a model's predictions are, and how two models differ on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnnkit.errors import DataError
from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.outputs import main_output
from bnnkit.io.data import Dataset, Split
from bnnkit.metrics import (
    BRIER,
    ECE,
    ECE_EQUAL_MASS,
    ERROR,
    NLL,
    binned_gap,
    bootstrap_interval,
    brier_each,
    calibration_each,
    equal_mass_gap,
    error_each,
    log_probabilities,
    mean_interval,
    nll_each,
    paired_difference,
    wilson_interval,
)
from bnnkit.spec import Quantity

__all__ = [
    "Predictions",
    "check_fit",
    "check_outputs",
    "classes_of",
    "compare",
    "measure",
    "measure_equal_mass",
    "predictions",
]

_RISE = "_rise"


@dataclass(frozen=True)
class Predictions:
    """What a model says about labelled inputs.

    Args:
        log_probs: float64 `[n, k]`, normalised.
        labels: int64 `[n]`.
    """

    log_probs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def check_fit(input_shape: tuple[int, ...] | None, dataset: Dataset) -> None:
    """Refuse data whose inputs are not what the model reads.

    Args:
        input_shape: `(c, h, w)` or `(features,)` of the model; None where it is not known.
        dataset: The data.

    Raises:
        DataError: The shapes differ; both are named.
    """
    if input_shape is None or tuple(input_shape) == dataset.input_shape:
        return
    model, data = ("x".join(map(str, s)) for s in (input_shape, dataset.input_shape))
    kind = "channels" if input_shape[0] != dataset.input_shape[0] else "sizes"
    raise DataError(
        f"Fitting {dataset.name!r} to the model",
        f"the model reads {model} and the data give {data}",
        f"the {kind if len(input_shape) == len(dataset.input_shape) else 'axes'} differ",
        f"Give --input-shape {','.join(map(str, input_shape))}, or other data.",
    )


def check_outputs(outputs: int, split: Split) -> None:
    """Refuse a model whose number of outputs is not the number of classes.

    Data whose classes were counted from the labels present may have fewer than the model.

    Args:
        outputs: Classes that the model tells apart.
        split: The data.

    Raises:
        DataError: The numbers do not fit; both are named.
    """
    if outputs == split.classes or (outputs > split.classes and not split.classes_known):
        return
    raise DataError(
        "Fitting the model to the data",
        f"the model has {outputs} outputs and the data have {split.classes} classes",
        "each class needs its own output",
        "Use a model for these classes (--arch-arg num_classes=...), or its own data.",
    )


def classes_of(module: nn.Module, inputs: Tensor) -> int:
    """Return how many classes a model tells apart, from its answer to some inputs `[b, ...]`."""
    with preserved_modes(module), torch.no_grad():
        return log_probabilities(main_output(module.eval()(inputs))).shape[1]


def predictions(
    predictor: Callable[[Tensor], Tensor],
    split: Split,
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> Predictions:
    """Run a model over a part of the data, in its order.

    Args:
        predictor: From inputs `[b, ...]` to logits, log-probabilities or probabilities `[b, k]`;
            in evaluation mode.
        split: The data; no augmentation.
        batch_size: Inputs a call.
        device: Where the inputs are put.

    Raises:
        DataError: The outputs are no class scores, are not numbers, or do not fit the classes.
    """
    outputs: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.no_grad():
        for x, y in split.batches(batch_size):
            answer = predictor(x.to(device)).cpu()
            if len(answer) != len(y):
                raise DataError(
                    "Running the model",
                    f"outputs of shape {list(answer.shape)} for {len(y)} inputs",
                    "there must be one row an input",
                )
            if not outputs:
                check_outputs(log_probabilities(answer).shape[1], split)
            outputs.append(answer)
            labels.append(y)
    if not outputs:
        raise DataError("Evaluating", "no examples", "the data are empty")
    return Predictions(log_probabilities(torch.cat(outputs)), torch.cat(labels))


def measure(found: Predictions, *, level: float = 0.95) -> dict[str, Quantity]:
    """Measure error (%), NLL (nats), calibration error (%) and Brier score with intervals.

    Args:
        found: Predictions of one model.
        level: Confidence of the intervals.
    """
    p, y, n = found.log_probs, found.labels, len(found)
    share = float(error_each(p, y).mean())
    ends = wilson_interval(share, n, level=level)
    return {
        ERROR: _quantity(100 * share, "%", n, [100 * v for v in ends], level),
        NLL: _mean(nll_each(p, y), "nats", level),
        ECE: _calibration([found], binned_gap, level),
        BRIER: _mean(brier_each(p, y), "", level),
    }


def measure_equal_mass(
    found: Predictions, original: Predictions | None = None, *, level: float = 0.95
) -> dict[str, Quantity]:
    """Measure the calibration error (%) with bins of as many inputs each, and its rise.

    Args:
        found: Predictions of one model.
        original: Those of a reference on the same inputs.
        level: Confidence of the intervals.

    Returns:
        `ece_equal_mass`; `ece_equal_mass_rise` (points) where there is a reference.
    """
    out = {ECE_EQUAL_MASS: _calibration([found], equal_mass_gap, level)}
    if original is not None:
        out[ECE_EQUAL_MASS + _RISE] = _calibration([original, found], equal_mass_gap, level)
    return out


def compare(
    original: Predictions, slim: Predictions, *, level: float = 0.95
) -> dict[str, Quantity]:
    """Measure how much worse `slim` is than `original`, pair by pair.

    Args:
        original: Predictions of the reference.
        slim: Predictions of the other model on the same inputs in the same order.
        level: Confidence of the intervals.

    Returns:
        `error_rise` and `ece_rise` (points), `nll_rise` (nats), `brier_rise`.

    Raises:
        DataError: The two were not made from the same labels.
    """
    if not torch.equal(original.labels, slim.labels):
        raise DataError(
            "Comparing two models",
            f"{len(original)} and {len(slim)} predictions with other labels",
            "they must be made from the same inputs in the same order",
        )
    y = original.labels
    out = {}
    for key, each, unit, scale in (
        (ERROR, error_each, "points", 100.0),
        (NLL, nll_each, "nats", 1.0),
        (BRIER, brier_each, "", 1.0),
    ):
        d = paired_difference(each(original.log_probs, y), each(slim.log_probs, y), level=level)
        ends = [scale * d["low"], scale * d["high"]]
        out[key + _RISE] = _quantity(scale * d["value"], unit, len(y), ends, level)
    out[ECE + _RISE] = _calibration([original, slim], binned_gap, level)
    return out


def _calibration(
    models: Sequence[Predictions], error: Callable[[Tensor, Tensor, Tensor], Tensor], level: float
) -> Quantity:
    """Measure one model's calibration error, or its rise from the first model to the second.

    The same inputs are resampled for both.
    """
    terms = [calibration_each(p.log_probs, p.labels) for p in models]

    def statistic(rows: Tensor) -> Tensor:
        found = [error(*term, rows) for term in terms]
        return found[1] - found[0] if len(found) > 1 else found[0]

    n, alone = len(models[0]), len(models) == 1
    low, high = bootstrap_interval(statistic, n, level=level, generator=_generator())
    value = float(statistic(torch.arange(n)[None])[0])
    if alone:
        low, high = max(0.0, low), min(1.0, high)
    unit = "%" if alone else "points"
    return _quantity(100 * value, unit, n, [100 * low, 100 * high], level)


def _mean(values: Tensor, unit: str, level: float) -> Quantity:
    ends = list(mean_interval(values, level=level))
    return _quantity(float(values.mean()), unit, len(values), ends, level)


def _quantity(value: float, unit: str, n: int, ends: list[float], level: float) -> Quantity:
    return Quantity(value, unit, n, ends[0], ends[1], level)


def _generator() -> torch.Generator:
    """Resample the same way at each call: a figure is a function of the predictions."""
    return torch.Generator().manual_seed(0)
