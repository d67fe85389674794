"""The report as one HTML page that opens without a network."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnnkit.run.reporting import (
    digest,
    filter_digest,
    generative_html,
    plots,
    prune_html,
    sweep_plots,
    uncertainty_digest,
    uncertainty_html,
)
from bnnkit.run.reporting.prune_digest import search_table
from bnnkit.run.reporting.tabular import (
    TABULAR,
    tabular_cards,
    tabular_grids,
    tabular_panels,
    tabular_tables,
)
from bnnkit.run.reporting.wording import (
    as_float,
    bytes_text,
    clean,
    count_text,
    figure_text,
    n_text,
    ratio_text,
    setting_text,
)
from bnnkit.spec.report import Report

__all__ = ["command_line", "render_html"]

_TEMPLATES = Path(__file__).parent / "templates"
_CURVES = (
    ("loss", "Loss", False),
    ("nll", "Negative log-likelihood, nats", False),
    ("kl", "Kullback-Leibler divergence, nats", False),
    ("validation", "Evidence lower bound on held-out data, nats", False),
    ("error", "Error, %", True),
    ("kept", "Units kept", True),
)
_HAPPENED = {
    "prune": "The original and the slim model, measured on the same inputs",
    "sweep": "One model, pruned by several methods towards several targets",
    "eval": "How well the model does its work",
    "bench": "How fast the models are",
    "train": "How the training went",
    "export": "The exported forms, compared on real inputs",
    "inspect": "What may be removed from the model",
    "sbn-fit": "Predictions averaged over the noise of the batch statistics",
    "mh-filter": "Samples of a generator, corrected by Metropolis-Hastings",
    **{command: tabular.lead for command, tabular in TABULAR.items()},
}


def command_line(argv: Sequence[object]) -> str:
    """Return the command as a shell reads it; `~/` stays outside the quotes so that it expands.

    >>> command_line(["bnnkit", "prune", "~/my models/m.pt"])
    "bnnkit prune ~/'my models/m.pt'"
    """
    words = (clean(arg) for arg in argv)
    return " ".join(
        "~/" + shlex.quote(w[2:]) if w.startswith("~/") and w[2:] else shlex.quote(w)
        for w in words
    )


def _quality_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of error and NLL."""
    original, slim = digest.section(body, "original"), digest.section(body, "slim")
    paired = digest.section(body, "paired")
    cards = []
    for key, title, digits in (("error", "Error", 2), ("nll", "Log-loss", 4)):
        after, before = as_float(slim.get(key)), as_float(original.get(key))
        if math.isnan(after):
            continue
        unit = "%" if key == "error" else "nats"
        if math.isnan(before):
            if key == "error" or "macs" not in slim:
                lines = f"{figure_text(slim[key])}, n\u00a0=\u00a0{n_text(slim[key])}"
                big = f"{after:.{digits}f} {unit}"
                cards.append({"title": title, "big": big, "sub": lines})
        elif key == "error":
            rise = paired.get("error_rise")
            sub = f"{figure_text(rise, sign=True)}, n\u00a0=\u00a0{n_text(rise)}" if rise else ""
            big = f"{before:.{digits}f} → {after:.{digits}f} {unit}"
            cards.append({"title": title, "big": big, "sub": sub})
    return cards


def _size_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of cost and size."""
    original, slim = digest.section(body, "original"), digest.section(body, "slim")
    ratios = digest.section(body, "ratios")
    cards = []
    for title, key, ratio, less, more in (
        ("Multiply-accumulates", "macs", "macs", "fewer", "more"),
        ("File", "file_bytes", "file", "smaller", "larger"),
    ):
        before, after = as_float(original.get(key)), as_float(slim.get(key))
        write = bytes_text if key == "file_bytes" else count_text
        unit = () if key == "file_bytes" else ("MACs",)
        if not math.isnan(as_float(ratios.get(ratio))):
            sub = f"{write(before, *unit)} → {write(after, *unit)}"
            big = ratio_text(ratios[ratio], less, more)
            cards.append({"title": title, "big": big, "sub": sub})
        elif not math.isnan(after):
            cards.append({"title": title, "big": write(after, *unit), "sub": "exact"})
    return cards


def _speed_card(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the best speedup, and the worst beside it so that nobody is misled."""
    found = []
    for row in digest.rows_of(body, "latency"):
        others = digest.rows_of(row, "models")[1:]
        for model in others:
            who = f"{clean(model.get('name'))}, " if len(others) > 1 else ""
            ratio = as_float(model.get("speedup"))
            if math.isfinite(ratio):
                found.append((ratio, model["speedup"], who + setting_text(row)))
    if not found:
        return []
    best, worst = max(found, key=lambda f: f[0]), min(found, key=lambda f: f[0])
    sub = f"{figure_text(best[1])} at {best[2]}"
    if len(found) > 1:
        sub += f"; worst of {len(found)}: {worst[0]:.2f}x at {worst[2]}"
    return [{"title": "Best speedup", "big": f"{best[0]:.2f}x", "sub": sub}]


def _cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of the command."""
    if body.get("command") == "sbn-fit":
        return uncertainty_html.cards(body)
    if body.get("command") == "mh-filter":
        return generative_html.cards(body)
    if (found := tabular_cards(body)) is not None:
        return found
    return _quality_cards(body) + _size_cards(body) + _speed_card(body)


def _kept_bars(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return bars on one scale: the units before, and those kept."""
    rows = digest.rows_of(body, "classes")
    most = max((as_float(row.get("size")) for row in rows), default=0.0)
    out = []
    for row in rows:
        size = as_float(row.get("size"))
        kept = as_float(row.get("kept", size))
        if not (size > 0 and kept >= 0 and most > 0):
            continue
        bar = {"before": 100 * size / most, "after": 100 * min(kept, size) / most}
        text = f"{size:,.0f} → {kept:,.0f}"
        out.append({"name": clean(row.get("name")), "text": text, **bar})
    return out


def _latency_groups(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return bars for each setting, as wide as the slowest model or the end of its interval."""
    groups = []
    for row in digest.rows_of(body, "latency"):
        models = [(m, m.get("latency")) for m in digest.rows_of(row, "models")]
        drawn = [(m, f) for m, f in models if isinstance(f, Mapping)]
        ends = [v for _, f in drawn for v in (as_float(f), as_float(f.get("high"))) if v < 1e300]
        most = max(ends, default=0.0)
        if not most > 0:
            continue
        bars = []
        for i, (model, figure) in enumerate(drawn):
            low, high = as_float(figure.get("low")), as_float(figure.get("high"))
            bar: dict[str, Any] = {
                "name": clean(model.get("name")),
                "width": 100 * value / most if (value := as_float(figure)) > 0 else 0.0,
                "latency": figure_text(figure),
                "n": n_text(figure),
                "speedup": figure_text(model.get("speedup")) if i else "reference",
                "reference": i == 0,
            }
            if math.isfinite(low) and math.isfinite(high):
                bar["whisker"] = (100 * max(low, 0) / most, 100 * (high - max(low, 0)) / most)
            bars.append(bar)
        groups.append({"setting": setting_text(row), "bars": bars})
    return groups


def _curves(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a panel for each figure of the training curve."""
    rows = digest.rows_of(body, "curve")
    epochs = [as_float(row.get("epoch")) for row in rows]
    panels = []
    for key, title, zero in _CURVES:
        values = [as_float(row.get(key)) for row in rows]
        if any(math.isfinite(v) for v in values):
            svg = plots.curve_panel(epochs, values, f"curve-{key}", title, zero=zero)
            panels.append({"title": title, "svg": svg})
    return panels


def _facts(node: object, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a mapping into names and values for a definition list."""
    if not isinstance(node, Mapping):
        return []
    out: list[tuple[str, str]] = []
    for key, value in node.items():
        name = f"{prefix}{clean(key)}".replace("_", " ")
        if isinstance(value, Mapping):
            out += _facts(value, f"{name} ")
        elif isinstance(value, list):
            out.append((name, ", ".join(clean(v) for v in value)))
        elif value is not None:
            out.append((name, clean(value)))
    return [(name, value) for name, value in out if value]


def _provenance(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to reproduce the run with."""
    found = digest.section(body, "provenance")
    argv = found.get("argv")
    parts = {k: v for k, v in found.items() if k not in ("argv", "versions")}
    parts = {("duration, s" if k == "seconds" else k): v for k, v in parts.items()}
    return {
        "command": command_line(argv) if isinstance(argv, list) else "",
        "versions": _facts(found.get("versions")),
        "facts": _facts(parts),
    }


def render_html(report: Report) -> str:
    """Return the page; a section that the report lacks is left out.

    Args:
        report: Any command's report. Its names may come from untrusted files: all are escaped.

    Returns:
        An HTML document with its style and charts inside.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    body = report.to_dict()
    model, data, method = (digest.section(body, name) for name in ("model", "data", "method"))
    kept = _kept_bars(body)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        command=clean(report.command),
        lead=_HAPPENED.get(report.command, ""),
        subject=clean(model.get("arch") or model.get("file") or ""),
        data_name=clean(data.get("name") or ""),
        conclusion=uncertainty_digest.verdict(body),
        cards=_cards(body),
        gates=digest.gates_table(body),
        quality=digest.quality_table(body),
        tables=tabular_tables(body),
        panels=tabular_panels(body),
        grids=tabular_grids(body),
        generated=generative_html.pictures(body),
        **uncertainty_html.pictures(body),
        latency=_latency_groups(body),
        search=search_table(body),
        **prune_html.pictures(body),
        sweep=sweep_plots.pictures(body),
        kept=kept,
        name_width=min(max([6.0, *(0.45 * len(bar["name"]) for bar in kept)]), 13.5),
        kept_note=getattr(digest.kept_table(body), "note", ""),
        curves=_curves(body),
        curve_table=digest.curve_table(body),
        checks=digest.checks_table(body),
        locked=digest.locked_table(body),
        layers=digest.layers_table(body),
        notes=filter_digest.notes(body),
        inputs=_facts({"model": {k: v for k, v in model.items() if k != "notes"}})
        + _facts({"data": {k: v for k, v in data.items() if k != "notes"}})
        + _facts({"method": method})
        + generative_html.inputs(body),
        provenance=_provenance(body),
    )
