"""From the reports of a sweep's cells to one row for each method and target.

Figures of several seeds are pooled by their means. The seeds share the test examples, so that more
seeds make the error of sampling examples hardly smaller: the ends of the cells' own intervals are
averaged, which holds however strongly the cells err together (the deviation of a mean is at most
the mean of the deviations). What differs from seed to seed is added as Student's interval of the
mean over the seeds, in quadrature of the distances to the ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import torch

from bnnkit.metrics import mean_interval, sum_interval
from bnnkit.run.reporting.digest import rows_of, section
from bnnkit.run.reporting.wording import as_float, setting_text
from bnnkit.run.sweeping.pareto import pareto_front
from bnnkit.spec import Quantity
from bnnkit.spec.sweep import Cell

__all__ = ["cell_row", "mark_fronts", "pool", "pooled_rows", "settings_of", "spread"]

_SETTING = ("runtime", "device", "threads", "batch")
_EXACT = ("parameters", "macs", "file_bytes")
_RATIOS = ("parameters", "macs", "file")


def settings_of(bodies: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every setting that a latency was measured at, in the order of appearance."""
    found = (
        {key: row.get(key) for key in _SETTING}
        for body in bodies
        for row in rows_of(body, "latency")
    )
    return list({setting_text(setting): setting for setting in found}.values())


def cell_row(
    cell: Cell, body: Mapping[str, Any] | None, settings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what a sweep's report says of one cell.

    Args:
        cell: The run.
        body: Its report, where it is done.
        settings: The settings of the sweep's speedups.
    """
    target = {k: v for k, v in asdict(cell.config.target).items() if v is not None}
    named = {"name": cell.name, "method": cell.config.method, "target": target}
    row: dict[str, Any] = {**named, "seed": cell.config.train.seed}
    if body is None:
        return {**row, "status": "waiting"}
    slim = section(body, "slim")
    speedups = {
        setting_text(measured): model.get("speedup")
        for measured in rows_of(body, "latency")
        for model in rows_of(measured, "models")[1:]
    }
    return {
        **row,
        "status": "done",
        "error": slim.get("error"),
        "error_rise": section(body, "paired").get("error_rise"),
        **{key: slim.get(key) for key in _EXACT},
        "ratios": {key: section(body, "ratios").get(key) for key in _RATIOS},
        "speedup": [speedups.get(setting_text(setting)) for setting in settings],
    }


def pooled_rows(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each method and target, in the order of appearance.

    Args:
        cells: Rows of `cell_row`; what is not done counts as planned alone.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["method"], *cell["target"].items()), []).append(cell)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [cell for cell in group if cell["status"] == "done"]
    row: dict[str, Any] = {"method": group[0]["method"], "target": group[0]["target"]}
    row |= {"seeds": [cell["seed"] for cell in done], "planned": len(group)}
    if not done:
        return row
    return {
        **row,
        "error": spread([cell["error"] for cell in done], "%"),
        "error_rise": pool([cell["error_rise"] for cell in done]),
        **{key: fmean(as_float(cell[key]) for cell in done) for key in _EXACT},
        "ratios": {key: spread([cell["ratios"][key] for cell in done], "x") for key in _RATIOS},
        "speedup": [
            pool(figures, ratio=True)
            for figures in zip(*(cell["speedup"] for cell in done), strict=True)
        ],
    }


def spread(figures: Sequence[object], unit: str) -> dict[str, Any]:
    """Return mean and standard deviation over seeds; no deviation of one."""
    values = [as_float(figure) for figure in figures]
    sd = stdev(values) if len(values) > 1 else None
    return {"value": fmean(values), "unit": unit, "sd": sd}


def pool(figures: Sequence[object], *, ratio: bool = False) -> Quantity | None:
    """Return the mean of a figure over seeds, its interval over examples and seeds.

    Of one seed it is the cell's own interval: nothing is known of the seeds then.

    Args:
        figures: The cells' figures, each with its interval at the same confidence.
        ratio: Pool on the logarithm, where figures are ratios: the mean is geometric.

    Returns:
        None where a cell lacks the figure or its interval.
    """
    given = [figure for figure in figures if isinstance(figure, Mapping)]
    ends = [[as_float(figure.get(key)) for key in ("value", "low", "high")] for figure in given]
    usable = all(math.isfinite(x) and (x > 0 or not ratio) for row in ends for x in row)
    if not given or len(given) < len(figures) or not usable:
        return None
    level = as_float(given[0].get("level", 0.95))
    value, low, high = ends[0] if len(ends) == 1 else _pooled(ends, level, ratio=ratio)
    n = max(int(as_float(figure.get("n", 0))) for figure in given)
    return Quantity(value, str(given[0].get("unit", "")), n, low, high, level)


def _pooled(ends: list[list[float]], level: float, *, ratio: bool) -> tuple[float, float, float]:
    """Return value, low and high of two or more seeds; of ratios by their logarithms."""
    table = [[math.log(x) for x in row] for row in ends] if ratio else ends
    value, low, high = (fmean(column) for column in zip(*table, strict=True))
    seeds = mean_interval(
        torch.tensor([row[0] for row in table], dtype=torch.float64), level=level
    )
    low, high = sum_interval((value, low, high), (0.0, seeds[0] - value, seeds[1] - value))
    if ratio:
        return math.exp(value), math.exp(low), math.exp(high)
    return value, low, high


def mark_fronts(
    rows: Sequence[dict[str, Any]], original: object, settings: Sequence[Mapping[str, Any]]
) -> None:
    """Write into each row where no other row, nor the original, has less error at no more cost.

    There is one front of error against multiply-accumulates, one against the file's size, and one
    against the latency of each setting. Means over seeds are compared, to the hundredth: runs that
    aim at one cost differ by a unit or two, and that puts nothing on a front.

    Args:
        rows: Rows of `pooled_rows`; each gets `front`, a list of `macs`, `file` and settings.
        original: Error of the original, %.
        settings: The settings of the speedups.
    """
    for row in rows:
        row["front"] = []
    for name, ratios in _planes(rows, settings).items():
        points = [
            (_shown(row.get("error")), -_shown(x)) for row, x in zip(rows, ratios, strict=True)
        ]
        found = [
            (row, p) for row, p in zip(rows, points, strict=True) if all(map(math.isfinite, p))
        ]
        compared = [p for _, p in found] + [(_shown(original), -1.0)]
        for i in pareto_front(compared):
            if i < len(found):
                found[i][0]["front"].append(name)


def _shown(figure: object) -> float:
    """Return a figure as the table shows it."""
    return round(as_float(figure), 2)


def _planes(
    rows: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Return how many times cheaper each row is, by what the cost is counted in."""
    planes = {
        key: [as_float(section(row, "ratios").get(key)) for row in rows]
        for key in ("macs", "file")
    }
    for i, setting in enumerate(settings):
        speedups = [row["speedup"][i] if "speedup" in row else None for row in rows]
        planes[setting_text(setting)] = [
            figure.value if isinstance(figure, Quantity) else math.nan for figure in speedups
        ]
    return planes
