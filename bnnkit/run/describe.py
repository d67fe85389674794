"""The structure of a model as report sections: classes, locked parts, layers, the most to save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.graph.count import costs, count_macs, count_parameters
from bnnkit.graph.rebuild import make_slim
from bnnkit.graph.settle import FORMS
from bnnkit.graph.structure import Structure

__all__ = ["class_rows", "layer_rows", "locked_rows", "most_removable", "structure_sections"]


def structure_sections(model: nn.Module, structure: Structure) -> dict[str, Any]:
    """Return what can be said of a model before anything is decided.

    Args:
        model: The analysed model; untouched.
        structure: Its channel classes.

    Returns:
        The report sections `classes`, `locked`, `layers` and `removable`.
    """
    return {
        "classes": class_rows(structure),
        "locked": locked_rows(structure),
        "layers": layer_rows(model, model, structure.input_shape),
        "removable": most_removable(model, structure),
    }


def class_rows(
    structure: Structure,
    keep: Tensor | None = None,
    evidence: Mapping[str, Tensor] | None = None,
    theta: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Return one row for each channel class.

    Args:
        structure: The channel classes.
        keep: `[units]` bool; None keeps all.
        evidence: `{name: [units]}` figures of the method, such as `snr`.
        theta: `[units]` frozen gates.

    Returns:
        Rows with `name`, `size` and `kept` (units), `writers`, `readers`, `bulk` (channels of the
        first writer that a unit stands for) and, where given, the figures of every unit.
    """
    figures = dict(evidence or {})
    if theta is not None:
        figures["theta"] = theta
    rows = []
    for c in structure.classes:
        row: dict[str, Any] = {
            "name": c.name,
            "size": c.size,
            "kept": c.size if keep is None else int(keep[c.units].sum()),
            "writers": list(c.writers),
            "readers": list(c.readers),
            "bulk": c.multiplicity,
        }
        row.update({name: _numbers(values[c.units]) for name, values in figures.items()})
        rows.append(row)
    return rows


def _numbers(values: Tensor) -> list[float]:
    """Return a tensor's numbers with as many digits as a report needs."""
    return [float(f"{v:.6g}") for v in values.detach().double().cpu().tolist()]


def locked_rows(structure: Structure) -> list[dict[str, Any]]:
    """Return one row `{name, channels, reason}` for each part that cannot be removed."""
    return [
        {"name": part.name, "channels": part.channels, "reason": part.reason}
        for part in structure.locked
    ]


def layer_rows(
    original: nn.Module, slim: nn.Module, input_shape: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return the sizes and the cost of each convolution and linear layer, before and after.

    Args:
        original: The model at full width.
        slim: What became of it; the original itself where nothing was removed.
        input_shape: `[...]` of one input, without batch.
    """
    before = costs(original, input_shape)
    after = before if slim is original else costs(slim, input_shape)
    by_name = {layer.name: layer for layer in after}
    rows = []
    for old in before:
        new = by_name.get(old.name)
        rows.append(
            {
                "name": old.name,
                "kind": old.kind,
                "before": list(old.channels),
                "after": list(new.channels) if new else [0, 0],
                "macs_before": old.macs,
                "macs_after": new.macs if new else 0,
                "parameters_before": old.parameters,
                "parameters_after": new.parameters if new else 0,
            }
        )
    return rows


def most_removable(model: nn.Module, structure: Structure) -> dict[str, Any]:
    """Return the largest savings possible: every class at the least that keeps the net whole.

    Args:
        model: The analysed model; untouched.
        structure: Its channel classes.

    Returns:
        `classes`, `units`, and `parameters` and `macs`, each `{before, least, share}`; the share
        of what can go lies in [0, 1].
    """
    keep = torch.zeros(structure.n_units, dtype=torch.bool)
    theta = torch.ones(structure.n_units)
    keep, _ = structure.ensure_alive(keep, theta)
    slim, least_macs = _least(model, structure, keep, theta)
    macs = count_macs(model, structure.input_shape) if slim is not model else least_macs
    return {
        "classes": len(structure.classes),
        "units": structure.n_units,
        "parameters": _saving(count_parameters(model), count_parameters(slim)),
        "macs": _saving(macs, least_macs),
    }


def _saving(before: int, least: int) -> dict[str, Any]:
    return {"before": before, "least": least, "share": 1 - least / before if before else 0.0}


def _least(
    model: nn.Module, structure: Structure, keep: Tensor, theta: Tensor
) -> tuple[nn.Module, int]:
    """Return the smallest model in the first form that runs, and its multiply-accumulates."""
    if structure.classes:
        for form in FORMS:
            try:
                slim = make_slim(model, structure, keep, theta, form=form)
                return slim, count_macs(slim, structure.input_shape)
            except Exception:  # the owner's code at widths that it never saw
                continue
    return model, count_macs(model, structure.input_shape)
