"""What the page of a filtered generator shows: its verdict figures and its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnnkit.run.reporting import generative_plots as plots
from bnnkit.run.reporting.canvas import SERIES
from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.filter_digest import (
    bound_text,
    candidates_table,
    chain_table,
    length_table,
    trace_table,
)
from bnnkit.run.reporting.grids import grids
from bnnkit.run.reporting.sampler_digest import (
    OWN,
    class_shares,
    costs_table,
    extractors_of,
    fixed,
    in_percent,
    is_filter,
    metric,
    one_line,
    sampler_named,
    samplers_table,
)
from bnnkit.run.reporting.wording import as_float, clean, count_text, n_text

__all__ = ["cards", "inputs", "pictures"]

_TENTH = 10.0  # %
_FAR = 20.0  # of the last step to the first: a linear axis would crowd the early ones
_SETS = (("before", "raw"), ("after", "delivered"), ("real", "floor"))
_Card = dict[str, str]


def cards(body: Mapping[str, Any]) -> list[_Card]:
    """Return the verdict figures: quality before and after, movement of the chain, and speed."""
    found = [_change_card(body, "fid", "FID"), _change_card(body, "is", "IS")]
    found += [_classes_card(body), _acceptance_card(body), _speed_card(body)]
    return [card for card in found if card is not None]


def _pair(body: Mapping[str, Any], extractor: str, key: str) -> tuple[float, float]:
    """Return a figure of the raw and of the delivered sampler."""
    before, after = (sampler_named(body, name) for name in ("raw", "delivered"))
    return as_float(metric(before, extractor, key)), as_float(metric(after, extractor, key))


def _change_card(body: Mapping[str, Any], key: str, title: str) -> _Card | None:
    """Return a figure before and after: where there is a choice, not in the filter's features."""
    known = [
        (name, head, *pair)
        for name, head in extractors_of(body)
        if math.isfinite((pair := _pair(body, name, key))[1])
    ]
    if not known:
        return None
    known.sort(key=lambda row: row[1].endswith(OWN))
    floor = sampler_named(body, "floor")

    def change(before: float, after: float) -> str:
        texts = fixed([before, after], None if key == "fid" else 2)
        return " → ".join(text for text in texts if text != "-")

    name, head, before, after = known[0]
    real = as_float(metric(floor, name, key))
    notes = [] if math.isnan(real) else [f"real images: {fixed([real])[0]}"]
    notes += [f"{one_line(head)}: {change(b, a)}".replace(" →", "\u00a0→")
              for _, head, b, a in known[1:2]]  # fmt: skip
    big = change(before, after)
    return {"title": f"{title}, {one_line(head)}", "big": big, "sub": "; ".join(notes)}


def _ends(row: Mapping[str, Any]) -> str:
    """Write the smallest and the largest share of a class, empty where none is known."""
    known = [share for share in class_shares(row) if math.isfinite(share)]
    decimals = 0 if max(known, default=0) >= _TENTH else 1
    return f"{min(known):.{decimals}f}–{max(known):.{decimals}f}" if known else ""


def _classes_card(body: Mapping[str, Any]) -> _Card | None:
    """Return the range of the class shares before and after."""
    before, after, real = (_ends(sampler_named(body, name)) for _, name in _SETS)
    if not after:
        return None
    big = " → ".join(text for text in (before, after) if text)
    return {
        "title": "Class shares",
        "big": f"{big} %",
        "sub": f"real images: {real} %" if real else "",
    }


def _acceptance_card(body: Mapping[str, Any]) -> _Card | None:
    """Return the acceptance, and what it says of the distance from real images."""
    chain = section(body, "chain")
    share = as_float(in_percent(chain.get("acceptance")))
    if math.isnan(share):
        return None
    tv, n = as_float(chain.get("tv_estimate")), n_text(chain.get("acceptance"))
    parts = [] if n == "-" else [f"n\u00a0=\u00a0{n}"]
    parts += [] if math.isnan(tv) else [f"TV estimate {tv:.2g} from real images"]
    return {"title": "Acceptance", "big": f"{share:.1f} %", "sub": "; ".join(parts)}


def _speed_card(body: Mapping[str, Any]) -> _Card | None:
    """Return how many filtered samples a second."""
    rate, bank = as_float(section(body, "chain").get("per_second")), section(body, "bank")
    if not (math.isfinite(rate) and rate > 0):
        return None
    size, length = count_text(bank.get("size")), count_text(section(body, "chain").get("length"))
    parts = [] if size == "-" else [f"from a bank of {size}"]
    parts += [] if length == "-" else [f"chains of {length}"]
    big = f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"
    return {"title": "Filtered samples", "big": big, "sub": ", ".join(parts)}


def inputs(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the generator is used and how the data were split, as names and values."""
    if not is_filter(body):
        return []
    generator, splits = section(body, "generator"), section(body, "splits")
    found = [(f"generator {key}", generator.get(key)) for key in
             ("name", "form", "latent", "out_range", "shape", "classes", "pixels")]  # fmt: skip
    found += [(f"split {key}", splits.get(key)) for key in ("fit", "held", "test", "seed")]
    return [(name.replace("_", " "), text) for name, value in found if (text := _plain(value))]


def _plain(value: object) -> str:
    """Write a setting."""
    if isinstance(value, list):
        return ", ".join(clean(v) for v in value)
    return "" if value is None or isinstance(value, Mapping) else clean(value)


def pictures(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of a filtered generator draws; empty for another command."""
    if not is_filter(body):
        return {}
    samplers = samplers_table(body)
    return {
        "grids": grids(body),
        "samplers": samplers,
        "groups": [] if samplers is None else _groups(body, samplers),
        "costs": costs_table(body),
        "classes": _classes(body),
        "lengths": _lengths(body),
        "length_table": length_table(body),
        "trace": _trace(body),
        "trace_table": trace_table(body),
        "candidates": candidates_table(body, best=True),
        "all_candidates": candidates_table(body),
        "chain": chain_table(body),
        "bound": bound_text(body),
    }


def _groups(body: Mapping[str, Any], table: Table) -> list[dict[str, Any]]:
    """Return the columns of a table of samplers under the features that they belong to."""
    heads = {head for _, head in extractors_of(body)}
    groups: list[dict[str, Any]] = []
    for i, column in enumerate(table.columns):
        title, _, rest = column.partition(", ")
        name = rest if rest in heads else ""
        if not groups or groups[-1]["key"] != name:
            groups.append({"key": name, "name": one_line(name), "first": i, "columns": []})
        groups[-1]["columns"].append(title if name else column)
    return groups


def _classes(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the class histogram of raw, delivered and real images."""
    known = {role: class_shares(sampler_named(body, name)) for role, name in _SETS}
    sets = [plots.Bars(role, shares) for role, shares in known.items()
            if any(math.isfinite(v) for v in shares)]  # fmt: skip
    if not sets:
        return None
    names = body.get("class_names")
    svg = plots.class_bars(names if isinstance(names, list) else [], sets, "classes")
    return {"svg": svg, "roles": [bars.role for bars in sets]}


def _colours(body: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return each set of features, its heading, and its colour in all charts."""
    pairs = enumerate(extractors_of(body), 1)  # the first colour is the ink
    return [(name, one_line(head), i % len(SERIES)) for i, (name, head) in pairs]


def _panel(frame: plots.Frame, named: Sequence[tuple[str, plots.Curve]]) -> list[dict[str, Any]]:
    """Return a panel of the curves that have points and their legend, none without any."""
    drawn = [(name, curve) for name, curve in named if curve.points(positive=frame.log_x)]
    if not drawn:
        return []
    return [
        {
            "title": frame.title,
            "svg": plots.curves_panel([curve for _, curve in drawn], frame),
            "lines": [{"name": name, "colour": curve.colour} for name, curve in drawn if name],
            "dashed": any(math.isfinite(curve.floor) for _, curve in drawn),
        }
    ]


def _lengths(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return quality and movement against the length of the chain, real images dashed."""
    rows, floor = rows_of(body, "length_curve"), sampler_named(body, "floor")
    lengths = [row.get("length") for row in rows]
    panels = []
    for key, title, scale in (("fid", "FID", "log"), ("is", "Inception score", "near")):
        named = []
        for name, head, colour in _colours(body):
            values = [metric(row, name, key) for row in rows]
            limit = as_float(metric(floor, name, key))
            named.append((head, plots.Curve(colour, lengths, values, floor=limit)))
        frame = plots.Frame(title, "chain length", title, f"length-{key}", scale, log_x=True)
        panels += _panel(frame, named)
    moves = [
        (name, plots.Curve(colour, lengths, [in_percent(row.get(key)) for row in rows]))
        for key, name, colour in (("acceptance", "proposals accepted", 0),
                                  ("unmoved_share", "chains that never moved", 9))
    ]  # fmt: skip
    frame = plots.Frame("Movement", "chain length", "share, %", "movement", log_x=True)
    return panels + _panel(frame, moves)


def _trace(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return FID, inception score and loss over the training of the discriminator."""
    rows = rows_of(body, "trace")
    steps = [row.get("step") for row in rows]
    known = [step for step in map(as_float, steps) if step > 0]
    far = bool(known) and max(known) > _FAR * min(known)

    def spread(nodes: Sequence[Mapping[str, Any]], colour: int) -> plots.Curve:
        means, bars = ([node.get(key) for node in nodes] for key in ("mean", "sd"))
        return plots.Curve(colour, steps, means, bars)

    named = [
        (head, spread([section(section(row, "fid"), name) for row in rows], colour))
        for name, head, colour in _colours(body)
    ]
    panels = _panel(plots.Frame("FID", "step", "FID", "trace-fid", "log", log_x=far), named)
    title = "Inception score"
    frame = plots.Frame(title, "step", title, "trace-is", "near", log_x=far)
    panels += _panel(frame, [("", spread([section(row, "is") for row in rows], 0))])
    for key, title in (("loss", "Loss of the discriminator"), ("auc", "AUC")):
        values = [row.get(key) for row in rows]
        name = "loss" if key == "loss" else "AUC, %"
        frame = plots.Frame(title, "step", name, f"trace-{key}", "near", log_x=far)
        panels += _panel(frame, [("", plots.Curve(0, steps, values))])
    return panels
