"""Gates: a report's figures judged by their confidence bounds, never by the estimate alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnnkit.errors import ExitCode, UsageError
from bnnkit.run.reporting.wording import check_form, setting_text
from bnnkit.spec.gates import GateOptions, parse_setting
from bnnkit.spec.report import Report

__all__ = [
    "GateResult",
    "exit_code",
    "judge",
    "missing_error",
    "refuse_unmeasured",
]

_WORST_FIRST = {"fail": 0, "missing": 1, "inconclusive": 2, "pass": 3}
_MEASURED_BY = {
    "paired": "'bnnkit prune', 'bnnkit vae-refine', or 'bnnkit eval' with --against",
    "slim": "'bnnkit prune', 'bnnkit eval', or for an autoencoder 'bnnkit vae-eval'",
    "ratios": "'bnnkit prune'",
    "latency": "'bnnkit prune', or 'bnnkit bench' of two models or more",
    "checks": "'bnnkit prune', 'bnnkit export', or 'bnnkit vae-refine' that writes ONNX",
    "filtered": "'bnnkit mh-filter'",
    "sampling": "'bnnkit mh-proposal'",
}


@dataclass(frozen=True)
class _Gate:
    """What a gate looks at: the unit of its limit, and where the figure stands."""

    unit: str
    section: str
    key: str = ""


_GATES = {
    "max_error_rise": _Gate("points", "paired", "error_rise"),
    "max_nll_rise": _Gate("nats", "paired", "nll_rise"),
    "max_error": _Gate("%", "slim", "error"),
    "max_nll": _Gate("nats", "slim", "nll"),
    "max_ece": _Gate("%", "slim", "ece"),
    "max_brier": _Gate("", "slim", "brier"),
    "min_speedup": _Gate("x", "latency"),
    "min_mac_ratio": _Gate("x", "ratios", "macs"),
    "min_param_ratio": _Gate("x", "ratios", "parameters"),
    "min_size_ratio": _Gate("x", "ratios", "file"),
    "max_export_diff": _Gate("relative", "checks"),
    "min_elbo_gain": _Gate("nats", "paired", "elbo_gain"),
    "max_fid": _Gate("", "filtered", "fid"),
    "min_acceptance": _Gate("", "sampling", "acceptance"),
    "min_ess_per_draw": _Gate("", "sampling", "ess_per_draw"),
    "max_rhat": _Gate("", "sampling", "rhat"),
}


@dataclass(frozen=True)
class GateResult:
    """The judged gates.

    Args:
        rows: One `{gate, limit, unit, value, low, high, verdict, note}` a gate; a key without a
            value is left out. `note` names the setting, the exported form or what is missing.
        exit_code: What the process returns.
    """

    rows: list[dict[str, Any]]
    exit_code: ExitCode


@dataclass(frozen=True)
class _Figure:
    """A figure as the report holds it: NaN where it could not be computed."""

    value: float
    low: float | None = None
    high: float | None = None
    estimated: bool = False
    unit: str = ""
    note: str = ""


def _number(value: object) -> float:
    """Return a JSON number, and NaN for null: a report stores NaN and infinity as null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _figure(node: object, note: str = "") -> _Figure | None:
    """Read a figure or an exact number; None where there is neither."""
    if isinstance(node, int | float) and not isinstance(node, bool):
        return _Figure(_number(node), note=note)
    if not isinstance(node, Mapping) or "value" not in node:
        return None
    bounds = [_number(node.get(key)) for key in ("low", "high")]
    low, high = (b if math.isfinite(b) else None for b in bounds)
    return _Figure(
        _number(node["value"]),
        low,
        high,
        estimated=any(key in node for key in ("n", "low", "high")),
        unit=str(node.get("unit", "")),
        note=note,
    )


def _verdict(figure: _Figure, limit: float, *, ceiling: bool) -> str:
    """Judge by the bounds; equality with the limit is on the good side.

    An estimate without one of its bounds could lie anywhere on that side, so it is never better
    than inconclusive there.
    """
    if not math.isfinite(figure.value):
        return "fail"
    low = high = figure.value
    if figure.estimated:
        low = -math.inf if figure.low is None else figure.low
        high = math.inf if figure.high is None else figure.high
    if not ceiling:
        low, high, limit = -high, -low, -limit
    if high <= limit:
        return "pass"
    return "fail" if low > limit else "inconclusive"


def _speedups(latency: object, at: Mapping[str, str]) -> list[_Figure]:
    """Return the speedup of every model but the reference, at the settings asked for."""
    found, settings = [], []
    rows = latency if isinstance(latency, list) else []
    for row in (r for r in rows if isinstance(r, Mapping)):
        models = row.get("models")
        others = models[1:] if isinstance(models, list) else []
        settings.append(setting_text(row))
        if any(str(row.get(key)).lower() != value.lower() for key, value in at.items()):
            continue
        for model in (m for m in others if isinstance(m, Mapping)):
            who = f"{model.get('name')}: " if len(others) > 1 else ""
            figure = _figure(model.get("speedup"), who + settings[-1])
            if figure is not None:
                found.append(figure)
    if at and settings and not found:
        asked = ",".join(f"{key}={value}" for key, value in at.items())
        raise UsageError(
            "Judging --min-speedup",
            f"no speedup measured at {asked!r}",
            f"the report has {'; '.join(dict.fromkeys(settings))}",
            "Name one of these settings in --speedup-at.",
        )
    return found


def _exports(checks: object) -> list[_Figure]:
    """Return the worst relative difference of each exported form."""
    rows = checks if isinstance(checks, list) else []
    return [
        _Figure(_number(row.get("worst")), unit=str(row.get("unit", "")), note=str(row["name"]))
        for row in rows
        if isinstance(row, Mapping) and check_form(row.get("name"))
    ]


def _candidates(name: str, body: Mapping[str, Any], options: GateOptions) -> list[_Figure]:
    """Return every figure that the gate covers; none where the report lacks it."""
    gate = _GATES[name]
    section = body.get(gate.section)
    if name == "min_speedup":
        return _speedups(section, parse_setting(options.speedup_at) if options.speedup_at else {})
    if name == "max_export_diff":
        return _exports(section)
    figure = _figure(section.get(gate.key)) if isinstance(section, Mapping) else None
    return [] if figure is None else [figure]


def _row(name: str, limit: float, figures: Sequence[_Figure]) -> dict[str, Any]:
    """Judge the figures of one gate and keep the worst."""
    gate = _GATES[name]
    row: dict[str, Any] = {"gate": name.replace("_", "-"), "limit": limit, "unit": gate.unit}
    if not figures:
        where = f"section {gate.section!r}" + (f" with {gate.key!r}" if gate.key else "")
        note = f"needs the {where}, measured by {_MEASURED_BY[gate.section]}"
        return {**row, "verdict": "missing", "note": note}
    for figure in figures:
        if figure.unit and gate.unit and figure.unit != gate.unit:
            raise UsageError(
                f"Judging --{row['gate']}",
                f"a figure in {figure.unit!r}",
                f"the limit is in {gate.unit!r}",
                "Measure the report again with this version of bnnkit.",
            )
    ceiling = name.startswith("max_")

    def order(judged: tuple[str, _Figure]) -> tuple[int, float]:
        verdict, figure = judged
        if not math.isfinite(figure.value):
            return (-1, 0.0)
        return (_WORST_FIRST[verdict], -figure.value if ceiling else figure.value)

    verdicts = ((_verdict(f, limit, ceiling=ceiling), f) for f in figures)
    verdict, worst = min(verdicts, key=order)
    row["value"] = worst.value if math.isfinite(worst.value) else None
    bounds = {"low": worst.low, "high": worst.high, "note": worst.note or None}
    row |= {key: value for key, value in bounds.items() if value is not None}
    return {**row, "verdict": verdict}


def exit_code(rows: Iterable[Mapping[str, Any]], *, strict: bool) -> ExitCode:
    """Return what the process answers to judged gates.

    A figure that was never measured comes first: the command line asked for what this report
    cannot tell, and no verdict of the other gates makes up for it.
    """
    verdicts = {row["verdict"] for row in rows}
    if "missing" in verdicts:
        return ExitCode.USAGE
    if "fail" in verdicts:
        return ExitCode.GATE_FAILED
    if strict and "inconclusive" in verdicts:
        return ExitCode.INCONCLUSIVE
    return ExitCode.OK


def judge(report: Report, options: GateOptions) -> GateResult:
    """Judge a report: pass or fail only where the whole interval lies on one side of the limit.

    `min_speedup` and `max_export_diff` are judged at every measured setting or exported form and
    the worst verdict counts. A figure that is not a finite number fails.

    Args:
        report: Any command's report.
        options: The limits.

    Returns:
        One row for each limit in the order of `GateOptions`, and the exit code.

    Raises:
        UsageError: `speedup_at` names a setting that was not measured, a figure is in another
            unit than its limit, or the report is of many models.
    """
    body = report.to_dict()
    if report.command == "sweep" and options.limits():
        raise _sweep_error(body)
    rows = [
        _row(name, limit, _candidates(name, body, options))
        for name, limit in options.limits().items()
    ]
    return GateResult(rows, exit_code(rows, strict=options.strict))


def _sweep_error(body: Mapping[str, Any]) -> UsageError:
    """Return the refusal of a sweep, with one of its cells that can be judged."""
    sweep = body.get("sweep")
    cells = sweep.get("cells", []) if isinstance(sweep, Mapping) else []
    rows = [cell for cell in cells if isinstance(cell, Mapping)]
    name = next((cell.get("name") for cell in rows if cell.get("status") == "done"), "NAME")
    return UsageError(
        "Judging a report",
        f"a sweep of {len(cells)} cells",
        "a gate judges one model, and a sweep compares many",
        f"Judge one of its cells, such as {body.get('out', '.')}/cells/{name}.",
    )


def missing_error(rows: Iterable[Mapping[str, Any]]) -> UsageError | None:
    """Return the refusal for gates whose figure the report lacks, or None."""
    lacking = [row for row in rows if row["verdict"] == "missing"]
    if not lacking:
        return None
    return UsageError(
        "Judging the gates",
        ", ".join(f"no figure for --{row['gate']}" for row in lacking),
        "; ".join(f"--{row['gate']} {row['note']}" for row in lacking),
        "Measure that section, or leave the gate out.",
    )


def refuse_unmeasured(options: GateOptions, measured: Collection[str]) -> None:
    """Refuse, before hours of work, gates that the coming report cannot answer.

    Args:
        options: The limits that were asked for.
        measured: Sections that the command is going to measure (`slim`, `paired`, `latency` ...).

    Raises:
        UsageError: A limit needs another section.
    """
    names = [name for name in options.limits() if _GATES[name].section not in measured]
    error = missing_error(_row(name, options.limits()[name], []) for name in names)
    if error is not None:
        raise error
