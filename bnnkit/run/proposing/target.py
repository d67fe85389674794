"""From the name of a target to the density that chains run on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import DataError, UsageError, did_you_mean
from bnnkit.io.datasets.named import read_breast_cancer
from bnnkit.io.targets import guarded, load_density, read_labelled, read_reference
from bnnkit.methods.proposals import (
    Minibatches,
    Modes,
    Reference,
    Target,
    logistic_regression,
    six_gaussians,
)

__all__ = ["make_target"]

_NAMED = ("mixture6", "logreg:breast-cancer")
_PARTS = ("data_size", "log_prior", "log_likelihood")


def make_target(
    name: str,
    dim: int | None = None,
    *,
    label: str | None = None,
    reference: str | Path | None = None,
) -> Target:
    """Return the density that a name means.

    Args:
        name: `mixture6`, `logreg:breast-cancer`, `logreg:FILE.csv`, `logreg:FILE.npz`, or
            `path/to/file.py:log_prob`.
        dim: Coordinates of a target in the user's own code.
        label: Column or array that holds the label of a table.
        reference: JSON with `mean` and `sd` that samples are held against.

    Raises:
        UsageError: The name means nothing, or the code cannot be used.
        DataError: A table or a reference cannot be used.
    """
    if label is not None and not name.startswith("logreg:"):
        raise UsageError(
            "Reading --label", repr(label), f"the target {name!r} is no table", "Leave it out."
        )
    target = _named(name, label) or _own(name, dim)
    if dim is not None and dim != target.dim:
        raise UsageError(
            "Reading --dim",
            str(dim),
            f"the target {name!r} has {target.dim} coordinates",
            f"Use --dim {target.dim}, or leave it out.",
        )
    if reference is not None:
        target = replace(target, reference=_reference(reference, target.dim))
    return target


def _named(name: str, label: str | None) -> Target | None:
    """Return a target of bnnkit's own or a table's, None where the name is neither."""
    if name == "mixture6":
        return six_gaussians()
    kind, _, rest = name.partition(":")
    if kind != "logreg":
        if ":" not in name:
            raise UsageError(
                f"Loading the target {name!r}",
                "no target of this name",
                "and it does not say where its code is",
                did_you_mean(name, _NAMED)
                if not name.endswith(".py")
                else f"Use {name}:log_prob.",
            )
        return None
    if rest == "breast-cancer":
        notes = ("label: benign is 1 and malignant is 0",)
        return logistic_regression(name, *read_breast_cancer(), notes)
    if not rest or Path(rest).suffix.lower() not in (".csv", ".tsv", ".txt", ".data", ".npz"):
        raise UsageError(
            f"Loading the target {name!r}",
            repr(rest),
            "a logistic regression is on breast-cancer, or on a table in .csv or .npz",
            did_you_mean(name, _NAMED),
        )
    table = read_labelled(rest, label)
    return logistic_regression(name, table.features, table.labels, table.notes)


def _own(name: str, dim: int | None) -> Target:
    """Wrap the user's function or object."""
    found = load_density(name)
    log_prob = getattr(found, "log_prob", found)
    what = f"Loading the target {name!r}"
    if not callable(log_prob):
        raise UsageError(
            what,
            f"{type(found).__name__!r}",
            "it is no function, and no object with log_prob",
            "Define log_prob(x) for x [n, dim], and return [n].",
        )
    size = dim if dim is not None else getattr(found, "dim", None)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UsageError(
            what,
            "no --dim" if size is None else f"the dimension {size!r}",
            "it takes positions [n, dim], and nothing says what dim is",
            "Add --dim 2, or give the object a number 'dim'.",
        )
    return Target(
        name=name,
        dim=size,
        log_prob=guarded(log_prob, name),
        modes=_modes(found, size, what),
        reference=_own_reference(found, size, what),
        minibatches=_minibatches(found, name),
    )


def _vector(value: Any, shape: tuple[int, ...], what: str, name: str) -> Tensor:  # noqa: ANN401
    """Return an attribute of the user's object as finite float32 of one shape."""
    try:
        out = torch.as_tensor(value).detach().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(what, f"{name} = {value!r}", "it holds no numbers") from error
    if tuple(out.shape) != shape or not bool(out.isfinite().all()):
        raise UsageError(
            what,
            f"{name} of shape {list(out.shape)}",
            f"finite numbers of shape {list(shape)} are expected",
        )
    return out


def _modes(found: object, dim: int, what: str) -> Modes | None:
    """Read `modes` `[m, dim]` and `mode_weights` `[m]`, equal where absent."""
    centres = getattr(found, "modes", None)
    if centres is None:
        return None
    try:
        count = len(centres)
    except TypeError as error:
        raise UsageError(what, f"modes = {centres!r}", f"it is no [m, {dim}]") from error
    weights = getattr(found, "mode_weights", None)
    if weights is None:
        weights = torch.full((count,), 1 / max(1, count))
    shares = _vector(weights, (count,), what, "mode_weights")
    if not count or float(shares.min()) <= 0 or abs(float(shares.sum()) - 1) > 1e-4:
        raise UsageError(
            what, f"mode_weights = {shares.tolist()}", "they are above 0 and sum to 1"
        )
    return Modes(_vector(centres, (count, dim), what, "modes"), shares)


def _own_reference(found: object, dim: int, what: str) -> Reference | None:
    """Read `reference_mean` and `reference_sd`."""
    mean, sd = (getattr(found, f"reference_{k}", None) for k in ("mean", "sd"))
    if mean is None or sd is None:
        return None
    deviations = _vector(sd, (dim,), what, "reference_sd")
    if float(deviations.min()) <= 0:
        raise UsageError(what, f"reference_sd = {deviations.tolist()}", "they are above 0")
    return Reference(_vector(mean, (dim,), what, "reference_mean"), deviations, "the target's own")


def _minibatches(found: object, name: str) -> Minibatches | None:
    """Read `data_size`, `log_prior` and `log_likelihood`."""
    size, prior, likelihood = (getattr(found, part, None) for part in _PARTS)
    if not isinstance(size, int) or not callable(prior) or not callable(likelihood):
        return None
    return Minibatches(size, guarded(prior, name), guarded(likelihood, name))


def _reference(path: str | Path, dim: int) -> Reference:
    """Read a reference from a file, and refuse one of another target."""
    body = read_reference(path)
    for key in ("mean", "sd"):
        if len(body[key]) != dim:
            raise DataError(
                f"Reading the reference {str(path)!r}",
                f"{len(body[key])} numbers in {key!r}",
                f"the target has {dim} coordinates",
            )
    return Reference(
        torch.tensor(body["mean"]),
        torch.tensor(body["sd"]),
        str(body.get("source", Path(path).name)),
        float(body.get("error", 0.0)),
    )
