"""A filtered generator as plain tables of text: discriminator, chain, samplers, curves, bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnnkit.run.reporting import digest
from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.sampler_digest import (
    extractors_of,
    fixed,
    in_percent,
    is_filter,
    keep_known,
    metric,
    own_note,
    sampler_tables,
    share_text,
)
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text, n_text, shorten

__all__ = ["bound_text", "candidates_table", "chain_table", "length_table", "notes", "tables",
           "trace_table"]  # fmt: skip

_MOST_LENGTHS, _MOST_STEPS = 6, 8
_KINDS = {
    "conv": "small conv net",
    "features": "logistic regression on features",
    "combined": "conv net and features",
    "owner": "the owner's own",
}
_LOSSES = {
    "bce": "binary cross-entropy",
    "mce": "pairwise logistic loss (MCE)",
    "ub": "upper bound of the distance (UB)",
}


def notes(body: Mapping[str, Any]) -> list[str]:
    """Return what was assumed of model, data and, where one was filtered, of the generator."""
    found = section(body, "generator").get("notes") if is_filter(body) else None
    more = [clean(note) for note in found] if isinstance(found, list) else []
    return list(dict.fromkeys([*digest.notes(body), *more]))


def tables(body: Mapping[str, Any], width: int | None = None) -> Iterator[Table | None]:
    """Yield the tables of a terminal in the order of reading; none for another command.

    Args:
        body: The report as dictionaries.
        width: Columns of the terminal; None where a line may be as long as it likes.
    """
    if not is_filter(body):
        return
    yield chain_table(body, bounded=True)
    yield trace_table(body)
    yield length_table(body)
    yield from sampler_tables(body, width)


def chain_table(body: Mapping[str, Any], *, bounded: bool = False) -> Table | None:
    """Return the figures of the discriminator, of the score bank and of the chain.

    Args:
        body: The report as dictionaries.
        bounded: Whether the sentences about the bound stand below, and the cost of the run.
    """
    rows = [*_discriminator_rows(body), *_chain_rows(body)]
    if bounded:  # the page is drawn before the run has ended
        rows.append(("the whole command", _cost(section(body, "cost")), ""))
    known = tuple(row for row in rows if row[1] not in ("", "-"))
    note = bound_text(body) if bounded else ""
    if not known:
        return Table("Bound", ("",), (), note) if note else None
    return Table("Discriminator and chain", ("", ">value", ">n"), known, note)


def _discriminator_rows(body: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what scores the samples, and how well it does on held-out ones."""
    found = section(body, "discriminator")
    kind, loss = (clean(found.get(key) or "") for key in ("kind", "loss"))
    extractor = found.get("extractor")
    features = shorten(extractor, 40) if isinstance(extractor, str) else ""
    temperature, way = as_float(found.get("temperature")), clean(found.get("calibration") or "")
    heat = "" if math.isnan(temperature) else f"T = {temperature:.3g}"
    rows = [
        ("discriminator", _named(kind, clean(found.get("name") or "")), ""),
        ("its loss", _LOSSES.get(loss, loss), ""),
        ("its features", features, ""),
        ("its training", _with_time(count_text(found.get("steps")), "steps", found), ""),
        ("its calibration", ", ".join(part for part in (way, heat) if part), ""),
    ]
    for key, name in (("auc", "AUC"), ("nll", "NLL"), ("ece", "ECE")):
        figure = found.get(key)
        rows.append((f"{name}, held out", figure_text(figure), n_text(figure)))
    return rows


def _named(kind: str, name: str) -> str:
    """Write a kind of discriminator, and which of its candidates was chosen."""
    said = _KINDS.get(kind, kind)
    return said if name in ("", kind) else f"{said}: {name}"


def _with_time(count: str, unit: str, found: Mapping[str, Any]) -> str:
    """Write a count and the time it took, whichever is known."""
    seconds = as_float(found.get("seconds"))
    parts = [] if count == "-" else [f"{count} {unit}"]
    parts += [f"{seconds:.3g} s"] if math.isfinite(seconds) else []
    return ", ".join(parts)


def _cost(found: Mapping[str, Any]) -> str:
    """Write the CPU and wall seconds of a run, nothing where they are not known."""
    cpu, wall = as_float(found.get("cpu")), as_float(found.get("wall"))
    if not (math.isfinite(cpu) and math.isfinite(wall)):
        return ""
    return f"{cpu:.3g} s of CPU time in {wall:.3g} s"


def _rate(found: Mapping[str, Any]) -> str:
    """Write how many a second, nothing where that is not known."""
    rate = as_float(found.get("per_second"))
    if not math.isfinite(rate):
        return ""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


def _chain_rows(body: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return how the bank was scored, and how the chains moved."""
    bank, chain = section(body, "bank"), section(body, "chain")
    scored = _with_time(count_text(bank.get("size")), "proposals made", bank)
    share = share_text(bank.get("weight_ess_share"))
    ess = count_text(bank.get("weight_ess"))
    length, count = count_text(chain.get("length")), count_text(chain.get("chains"))
    tv, restarts = as_float(chain.get("tv_estimate")), count_text(chain.get("restarts"))
    unmoved = share_text(chain.get("unmoved_share"))
    again = "" if restarts == "-" else f", {restarts} restarted"
    rows = [
        ("bank", ", ".join(part for part in (scored, _rate(bank)) if part), ""),
        ("ESS of their weights", ess if share == "-" else f"{ess} ({share})", ""),
        ("proposals", clean(chain.get("proposal") or ""), ""),
        ("chains", count if length == "-" else f"{count} of length {length}", ""),
    ]
    for key, name in (("acceptance", "acceptance"),
                      ("acceptance_from_real", "acceptance from real images")):  # fmt: skip
        figure = chain.get(key)
        rows.append((name, share_text(figure), n_text(figure)))
    tv_text = "-" if math.isnan(tv) else f"{tv:.3g} (1 - acceptance from real)"
    return [
        *rows,
        ("TV of generator and data, Theorem 1", tv_text, ""),
        ("chains that never moved", unmoved if unmoved == "-" else unmoved + again, ""),
        ("distinct samples", share_text(chain.get("unique_share")), ""),
        ("speed of the chains alone", _rate(chain), ""),
    ]


def bound_text(body: Mapping[str, Any]) -> str:
    """Return the bound on the distance in a sentence or two, empty where there is none."""
    found = section(body, "bound")
    loss, b, prefactor, gap, bound = (
        as_float(found.get(key)) for key in ("loss", "b", "prefactor", "gap", "bound")
    )
    parts = []
    if math.isfinite(loss):
        floor = "" if math.isnan(b) else f" (d ≥ {b:.3g})"
        parts.append(f"Loss of held-out pairs{floor}: {loss:.4g} nats.")
    if math.isfinite(bound):
        product = f"{figure_text(prefactor)} x {gap:.3g} nats = "
        product = product if math.isfinite(prefactor) and math.isfinite(gap) else ""
        # the number decides, whatever the report says of it
        end = ", vacuous: no distance exceeds 1." if bound > 1 else "."
        parts.append(f"The bound of TV² from it is {product}{bound:.3g}{end}")
    elif found.get("vacuous") is True:
        parts.append("The bound of TV² from it is vacuous.")
    return " ".join(parts)


def candidates_table(body: Mapping[str, Any], *, best: bool = False) -> Table | None:
    """Return the discriminators and temperatures that were tried, the chosen one marked.

    Args:
        body: The report as dictionaries.
        best: Whether only the best temperature of each discriminator is shown.
    """
    rows = rows_of(section(body, "discriminator"), "candidates")
    rows = _best(rows) if best else rows
    if not rows:
        return None
    columns = [("discriminator", [clean(row.get("name") or "-") for row in rows])]
    columns.append((">T", fixed([row.get("temperature") for row in rows])))
    for name, head in extractors_of(body):
        distances = [section(row, "distances").get(name) for row in rows]
        columns.append((f">distance, {head}", fixed(distances)))
    columns.append((">score", fixed([row.get("score") for row in rows])))
    chosen = frozenset(i for i, row in enumerate(rows) if row.get("chosen") is True)
    note = (
        "Distances are of samples filtered by each to held-out images. The chosen one is marked."
    )
    return keep_known("Discriminators tried", columns, note, chosen)


def _best(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the row with the lowest score of each name; a chosen row before any other."""
    found: dict[str, tuple[float, Mapping[str, Any]]] = {}
    for row in rows:
        score = as_float(row.get("score"))
        rank = -math.inf if row.get("chosen") is True else math.inf if math.isnan(score) else score
        name = str(row.get("name"))
        if name not in found or rank < found[name][0]:
            found[name] = rank, row
    return [row for _, row in found.values()]


def _few(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Return at most so many rows, evenly apart, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def length_table(body: Mapping[str, Any]) -> Table | None:
    """Return quality and movement of the chains for a few of their lengths."""
    rows = _few(rows_of(body, "length_curve"), _MOST_LENGTHS)
    if not rows:
        return None
    shares = [
        [in_percent(row.get(key)) for row in rows] for key in ("acceptance", "unmoved_share")
    ]
    columns = [
        (">length", [count_text(row.get("length")) for row in rows]),
        (">accepted, %", fixed(shares[0], 1)),
        (">unmoved, %", fixed(shares[1], 1)),
    ]
    for name, head in extractors_of(body):
        for key, title in (("fid", "FID"), ("is", "IS")):
            values = [metric(row, name, key) for row in rows]
            columns.append((f">{title}, {head}", fixed(values)))
    return keep_known("By length of the chain", columns, own_note(body))


def _spread(nodes: Sequence[object]) -> list[str]:
    """Write means with their standard deviations."""
    rows = [node if isinstance(node, Mapping) else {"mean": node} for node in nodes]
    means = fixed([row.get("mean") for row in rows])
    decimals = max(len(mean.partition(".")[2]) for mean in means)
    deviations = fixed([row.get("sd") for row in rows], decimals)
    pairs = zip(means, deviations, strict=True)
    return [mean if sd == "-" else f"{mean} ± {sd}" for mean, sd in pairs]


def trace_table(body: Mapping[str, Any]) -> Table | None:
    """Return quality over the training of the discriminator, a few of the steps."""
    rows = _few(rows_of(body, "trace"), _MOST_STEPS)
    if not rows:
        return None
    columns = [
        (">step", [count_text(row.get("step")) for row in rows]),
        (">loss", fixed([row.get("loss") for row in rows], 3)),
        (">AUC", fixed([row.get("auc") for row in rows])),
    ]
    for name, head in extractors_of(body):
        spread = _spread([section(row, "fid").get(name) for row in rows])
        columns.append((f">FID, {head}", spread))
    columns.append((">IS", _spread([row.get("is") for row in rows])))
    runs = {count_text(row.get("runs")) for row in rows} - {"-"}
    each = f", {runs.pop()} evaluations each" if len(runs) == 1 else ""
    note = f"Mean ± standard deviation{each}. {own_note(body)}".strip()
    return keep_known("Training of the discriminator", columns, note)
