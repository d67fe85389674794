"""Targets of learned proposals: densities in the user's own code, tables, and references."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnnkit.errors import ArchitectureError, DataError, UsageError, did_you_mean
from bnnkit.io.factories import describe_exception, home_of, importable, load_object

__all__ = ["LabelledTable", "guarded", "load_density", "read_labelled", "read_reference"]

_LABELS = ("label", "labels", "target", "y", "class", "outcome")
_FEATURES = ("x", "features", "data", "inputs")


@dataclass(frozen=True)
class LabelledTable:
    """Examples with one of two labels.

    Args:
        features: float64 `[n, d]`.
        labels: int64 `[n]`, 0 and 1.
        notes: How the label column was chosen, and which value became 1.
    """

    features: Tensor
    labels: Tensor
    notes: tuple[str, ...]


def load_density(name: str) -> object:
    """Import what `path/to/file.py:name` or `package.module:name` means; a class is called.

    Raises:
        UsageError: There is no such file, module or name, or importing it raises.
    """
    target, _, item = name.rpartition(":")
    what = f"Loading the target {name!r}"
    if not target or not item:
        raise UsageError(
            what, "a name without ':'", "it does not say where the code is",
            "Use mixture6, logreg:breast-cancer, logreg:FILE.csv or path/to/file.py:log_prob.",
        )  # fmt: skip
    try:
        with importable(home_of(target)):
            found = load_object(target, item)
            return found() if isinstance(found, type) else found
    except ArchitectureError as error:
        # providers of architectures have no densities
        words = error.found.removeprefix("no provider and ")
        kept = ("Did", "Known", "Install", "It ") if words == error.found else ()
        hint = error.hint if error.hint.startswith(kept) else ""
        raise UsageError(
            what,
            words,
            "there is no density to sample from",
            hint or "Name it as path/to/file.py:log_prob.",
        ) from error
    except Exception as error:  # the constructor of the user's class
        found_text = describe_exception(error, home_of(target))
        raise UsageError(
            what, found_text, "a class is called without arguments", "Name an object of it."
        ) from error


def guarded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the user's function with whatever it raises told in four parts.

    Args:
        function: Takes positions `[n, dim]` first.
        name: The target, as its owner calls it.
    """
    home = home_of(name.rpartition(":")[0])

    def call(x: Tensor, *rest: Tensor) -> Any:  # noqa: ANN401 - checked by whoever calls
        try:
            return function(x, *rest)
        except Exception as error:
            raise UsageError(
                f"Evaluating the target {name!r} on {list(x.shape)}",
                describe_exception(error, home),
                "there is no density to go on with",
                f"It gets float32 positions [n, {x.shape[1]}] and returns log densities [n]; "
                "--dim says how many coordinates there are.",
            ) from error

    return call


def read_reference(path: str | Path) -> dict[str, Any]:
    """Read a reference: JSON with `mean` and `sd`, lists of one number a coordinate.

    Returns:
        The whole document; `source` and `error` (of the means, in sd) where they are given.

    Raises:
        DataError: The file is absent or is something else.
    """
    what = f"Reading the reference {str(path)!r}"
    hint = 'Use {"mean": [...], "sd": [...], "source": "..."}.'
    try:
        body = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(what, error.strerror or "", "", "Check the path.") from error
    except ValueError as error:
        raise DataError(what, str(error), "this is not JSON", hint) from error
    if not isinstance(body, dict) or not all(_numbers(body.get(k)) for k in ("mean", "sd")):
        raise DataError(what, "no lists of numbers 'mean' and 'sd'", "", hint)
    if min(body["sd"]) <= 0:
        raise DataError(what, f"a deviation of {min(body['sd'])}", "it must be above 0")
    return body


def _numbers(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )


# --- tables ---------------------------------------------------------------------------------


def read_labelled(path: str | Path, label: str | None = None) -> LabelledTable:
    """Read a CSV file or an `.npz` with two classes.

    CSV: any of comma, semicolon, tab or space between cells; a first row without a number in it is
    a header. The label is the column `label`, else the one called label, target, y, class or
    outcome, else the last. npz: the label is the array `label`, else the one of these names;
    features are x, features, data or inputs. Of two label values, in their order, the second is 1.

    Raises:
        DataError: The file is absent or broken, has other than two labels, or a cell that is no
            number.
    """
    path = Path(path).expanduser()
    what = f"Reading the table {str(path)!r}"
    if not path.is_file():
        raise DataError(what, "no such file", "", "Check the path.")
    if path.suffix.lower() == ".npz":
        features, labels, chosen = _read_npz(path, label, what)
    else:
        features, labels, chosen = _read_csv(path, label, what)
    if features.ndim != 2 or len(features) != len(labels) or not features.shape[1]:
        raise DataError(
            what, f"features {list(features.shape)} and labels {list(labels.shape)}",
            "there must be one row of features for each label",
        )  # fmt: skip
    if bad := int((~np.isfinite(features)).sum()):
        raise DataError(
            what, f"{bad} values that are missing or not finite", "", "Remove or fill these rows."
        )
    values, codes = np.unique(labels, return_inverse=True)
    if len(values) != 2:
        raise DataError(
            what,
            f"{len(values)} different labels in {chosen}",
            "a logistic regression has two",
            "Name the column of the label with --label.",
        )
    note = f"label: {chosen}, {str(values[1])!r} is 1 and {str(values[0])!r} is 0"
    return LabelledTable(
        torch.from_numpy(features), torch.from_numpy(codes.reshape(-1).astype(np.int64)), (note,)
    )


def _read_csv(path: Path, label: str | None, what: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Return features, labels as text, and how the label was chosen."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(what, "bytes that are no UTF-8", "this is not a table of text") from error
    rows = [row for row in _cells(text) if row]
    if len(rows) < 2:
        raise DataError(what, f"{len(rows)} rows", "there is nothing to learn from")
    header = None if any(_is_number(cell) for cell in rows[0]) else rows.pop(0)
    width = len(header or rows[0])
    for i, row in enumerate(rows):
        if len(row) != width:
            raise DataError(what, f"{len(row)} cells in row {i + 1}", f"others have {width}")
    column, chosen = _label_column(header, width, label, what)
    features = np.empty((len(rows), width - 1))
    for i, row in enumerate(rows):
        for j, cell in enumerate(row[:column] + row[column + 1 :]):
            if not _is_number(cell):
                raise DataError(
                    what,
                    f"the cell {cell!r} in row {i + 1}",
                    "features are numbers",
                    "Write categories as numbers, one column each; remove rows with gaps.",
                )
            features[i, j] = float(cell)
    return features, np.array([row[column] for row in rows]), chosen


def _cells(text: str) -> list[list[str]]:
    """Split text into stripped cells by the delimiter that its first lines use."""
    try:
        dialect: Any = csv.Sniffer().sniff("\n".join(text.splitlines()[:20]), ",;\t ")
    except csv.Error:
        dialect = csv.excel
    rows = csv.reader(text.splitlines(), dialect, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label_column(
    header: list[str] | None, width: int, label: str | None, what: str
) -> tuple[int, str]:
    """Return which column holds the label, and how that was decided."""
    names = header or []
    if label is not None:
        if label in names:
            return names.index(label), f"column {label!r}, by --label"
        if label.isdigit() and int(label) < width:
            return int(label), f"column {label}, by --label"
        hint = did_you_mean(label, names) if names else f"Use a number from 0 to {width - 1}."
        raise DataError(what, f"no column {label!r}", "it should hold the label", hint)
    for word in _LABELS:
        for i, name in enumerate(names):
            if name.lower() == word:
                return i, f"column {name!r}, by its name"
    return width - 1, f"column {names[-1]!r}, the last" if names else "the last column"


def _read_npz(path: Path, label: str | None, what: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Return features, labels, and how the label was chosen."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(what, str(error).splitlines()[0], "it is no plain .npz file") from error
    keys = ", ".join(sorted(arrays)) or "none"
    lower = {key.lower(): key for key in arrays}
    y = label if label is not None else next((lower[w] for w in _LABELS if w in lower), None)
    x = next((lower[w] for w in _FEATURES if w in lower and lower[w] != y), None)
    if x is None or y is None or y not in arrays:
        raise DataError(
            what, f"the keys {keys}", "features and labels are needed",
            "Use the keys x and y, or name the labels with --label.",
        )  # fmt: skip
    try:
        features = arrays[x].astype(np.float64)
    except ValueError as error:
        raise DataError(what, str(error), f"{x!r} does not hold numbers") from error
    how = "by --label" if label is not None else "by its name"
    return features, arrays[y].reshape(-1), f"array {y!r}, {how}"
