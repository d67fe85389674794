"""How good a model's predictions are, and how two models differ on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.io.data import Dataset, Split
from bnnkit.metrics import (
    BRIER,
    ECE,
    ERROR,
    NLL,
    binned_gap,
    bootstrap_interval,
    brier_each,
    calibration_each,
    error_each,
    log_probabilities,
    mean_interval,
    nll_each,
    paired_difference,
    wilson_interval,
)
from bnnkit.spec import Quantity

__all__ = ["Predictions", "check_fit", "check_outputs", "compare", "measure", "predictions"]

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
    confidence, gap = calibration_each(p, y)
    low, high = bootstrap_interval(
        lambda rows: binned_gap(confidence, gap, rows), n, level=level, generator=_generator()
    )
    calibration = float(binned_gap(confidence, gap, torch.arange(n)[None])[0])
    ends = wilson_interval(share, n, level=level)
    return {
        ERROR: _quantity(100 * share, "%", n, [100 * v for v in ends], level),
        NLL: _mean(nll_each(p, y), "nats", level),
        ECE: _quantity(
            100 * calibration, "%", n, [100 * max(0.0, low), 100 * min(1.0, high)], level
        ),
        BRIER: _mean(brier_each(p, y), "", level),
    }


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
    out[ECE + _RISE] = _ece_rise(original, slim, level)
    return out


def _ece_rise(original: Predictions, slim: Predictions, level: float) -> Quantity:
    """Resample the same inputs for both models."""
    terms = [calibration_each(p.log_probs, p.labels) for p in (original, slim)]

    def rise(rows: Tensor) -> Tensor:
        before, after = (binned_gap(*term, rows) for term in terms)
        return after - before

    n = len(original)
    low, high = bootstrap_interval(rise, n, level=level, generator=_generator())
    value = float(rise(torch.arange(n)[None])[0])
    return _quantity(100 * value, "points", n, [100 * low, 100 * high], level)


def _mean(values: Tensor, unit: str, level: float) -> Quantity:
    ends = list(mean_interval(values, level=level))
    return _quantity(float(values.mean()), unit, len(values), ends, level)


def _quantity(value: float, unit: str, n: int, ends: list[float], level: float) -> Quantity:
    return Quantity(value, unit, n, ends[0], ends[1], level)


def _generator() -> torch.Generator:
    """Resample the same way at each call: a figure is a function of the predictions."""
    return torch.Generator().manual_seed(0)
