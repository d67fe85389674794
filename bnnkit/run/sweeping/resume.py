"""What a sweep finds done already, and whether that is what it would do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bnnkit.errors import BnnkitError, UsageError
from bnnkit.io.rundir import REPORT_JSON
from bnnkit.run.reporting.digest import section
from bnnkit.spec import Report
from bnnkit.spec.prune import PruneConfig

__all__ = ["check_same", "finished_report", "for_sweep"]

_COMPARED = (
    ("model", "file", "the model's file"),
    ("model", "arch", "--arch"),
    ("model", "arch_args", "--arch-arg"),
    ("model", "weights", "the sha256 of the model's weights"),
    ("data", "fingerprint", "the data's fingerprint"),
)


def finished_report(folder: Path) -> dict[str, Any] | None:
    """Return the report of a finished run; None where there is none.

    Raises:
        UsageError: The file is no report.
    """
    path = folder / REPORT_JSON
    if not path.is_file():
        return None
    try:
        return Report.from_json(path.read_text(encoding="utf-8")).to_dict()
    except (UsageError, ValueError, TypeError) as error:
        raise UsageError(
            f"Going on with {str(folder)!r}", f"its {REPORT_JSON}",
            "this is no report of this version of bnnkit",
            "Name another folder with --out, or remove this one yourself.",
        ) from error  # fmt: skip


def check_same(
    folder: Path,
    body: Mapping[str, Any],
    described: Mapping[str, Any],
    before: object,
    config: PruneConfig,
) -> None:
    """Refuse a report of another model, other data or other settings.

    Args:
        folder: Where it lies.
        body: The report. What its model was is compared as far as it says that.
        described: The sections `model` and `data` of what is to be run now.
        before: The settings that it was made with.
        config: Those of now.

    Raises:
        UsageError: They differ; the first difference is named with both values.
    """
    pairs = {
        name: (was[key], section(described, part).get(key))
        for part, key, name in _COMPARED
        if key in (was := section(body, part))
    }
    saved, wanted = _flat(before), _flat(json.loads(json.dumps(asdict(config))))
    pairs |= {key: (saved.get(key), wanted.get(key)) for key in {**saved, **wanted}}
    for name, (then, now) in pairs.items():
        if then != now:
            raise UsageError(
                f"Going on with {str(folder)!r}",
                f"{name} was {then!r} and is now {now!r}",
                "figures of different runs would stand in one table",
                "Use the same options, name another folder with --out, or run every cell "
                "anew with --force.",
            )


def for_sweep(error: BnnkitError, folder: Path) -> BnnkitError:
    """Return a cell's refusal with a hint for a sweep, whose --force runs every cell anew.

    Args:
        error: What `prune` says.
        folder: The run directory of the cell.
    """
    if "--force" not in error.hint:
        return error
    hint = f"Remove {str(folder)!r}, and run the same command again."
    return type(error)(error.what, error.found, error.why, hint)


def _flat(node: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested settings by their dotted names."""
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): node}
    return {
        k: v for key, inner in node.items() for k, v in _flat(inner, f"{prefix}{key}.").items()
    }
