"""The training of an autoencoder as plain tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, section
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text, n_text

__all__ = ["vae_fit_cards", "vae_fit_tables"]

_PARTS = (("train", "training data"), ("validation", "held out"), ("test", "test"))


def vae_fit_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return what was trained and the bounds."""
    return [table for table in (_bounds(body), _trained(body)) if table is not None]


def vae_fit_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of the page."""
    bound = section(section(body, "bounds"), "test").get("elbo")
    likelihood = section(body, "likelihood")
    cards = []
    if bound is not None:
        big = f"{as_float(bound):,.2f} nats"
        sub = f"{figure_text(bound)}, n\u00a0=\u00a0{n_text(bound)}"
        grey = section(body, "model").get("is_bound") is False
        title = "Objective on test data, no bound" if grey else "Bound on test data"
        cards.append({"title": title, "big": big, "sub": sub})
    if (gain := _gain(body)) is not None:
        big = f"{gain:+,.2f} nats"
        cards.append({"title": "Against the start", "big": big, "sub": "mean over test data"})
    if likelihood:
        big = f"{as_float(likelihood.get('nll')):,.2f} nats"
        sub = f"{count_text(likelihood.get('samples'))} importance samples"
        cards.append({"title": "NLL", "big": big, "sub": sub})
    return cards


def _gain(body: Mapping[str, Any]) -> float | None:
    """Return the rise of the mean test bound since the start, where there was one."""
    before = as_float(section(body, "before").get("elbo"))
    after = as_float(section(section(body, "bounds"), "test").get("elbo"))
    gain = after - before
    return None if math.isnan(gain) else gain


def _bounds(body: Mapping[str, Any]) -> Table | None:
    """Return the bound on each part of the data, its divergence, and the likelihood."""
    bounds, rows = section(body, "bounds"), []
    if before := section(body, "before"):
        rows.append(_row("test, at the start", before))
    rows += [_row(name, section(bounds, key)) for key, name in _PARTS if section(bounds, key)]
    likelihood = section(body, "likelihood")
    if likelihood:
        samples = count_text(likelihood.get("samples"))
        nll, ess = likelihood.get("nll"), as_float(likelihood.get("ess"))
        rows.append((f"test NLL, {samples} importance samples", figure_text(nll), "", n_text(nll)))
    if not rows:
        return None
    note = "Brackets: 95% intervals over data."
    if likelihood:
        note += f" Effective importance samples: {ess:.3g} of {samples}."
    title = "Evidence lower bound"
    if section(body, "model").get("is_bound") is False:
        title = "Objective of grey data, which is no bound"
    return Table(title, ("", ">value", ">KL in it", ">n"), tuple(rows), note)


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    bound = found.get("elbo")
    return name, figure_text(bound), figure_text(found.get("kl")), n_text(bound)


def _trained(body: Mapping[str, Any]) -> Table | None:
    """Return what was trained, and how it ended."""
    training = section(body, "training")
    if not training:
        return None
    rows = [
        ("posterior", clean(training.get("posterior"))),
        ("objective", clean(training.get("objective"))),
    ]
    if training.get("estimator") is not None and training.get("objective") in ("elbo", "beta"):
        rows.append(("estimator", clean(training.get("estimator"))))
    rows += [
        ("training data", count_text(training.get("n"))),
        ("epochs", count_text(training.get("epochs"))),
        ("weights kept of epoch", count_text(training.get("kept"))),
        ("parameters", count_text(training.get("parameters"))),
    ]
    if training.get("posterior_parameters"):
        rows.append(("parameters of the posterior", count_text(training["posterior_parameters"])))
    weights = section(body, "weights")
    if weights:
        kl = f"{as_float(weights.get('kl_per_datum')):.3g} nats a datum"
        rows.append(("KL of the decoder's weights", kl))
    stopped = training.get("stopped") is True
    note = "Stopped early: the bound on held-out data no longer rose." if stopped else ""
    return Table("Trained", ("", ">value"), tuple(rows), note)
