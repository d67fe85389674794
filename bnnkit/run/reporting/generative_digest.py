"""What a trained generator reads and makes, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, section
from bnnkit.run.reporting.wording import clean, figure_text, n_text

__all__ = ["generator_table"]


def generator_table(body: Mapping[str, Any]) -> Table | None:
    """Return how to use a trained generator, and an autoencoder's bound; None for classifiers."""
    found = section(body, "generator")
    if not found:
        return None
    rows = [
        ("latent", clean(found.get("latent")), ""),
        ("outputs", ",".join(f"{v:g}" for v in found.get("out_range", [])), ""),
        ("images", "x".join(clean(n) for n in found.get("shape", [])), ""),
    ]
    note = ""
    if "elbo" in found:
        rows.append(("bound on log p(x)", figure_text(found["elbo"]), n_text(found["elbo"])))
        note = "The bound is of test images whose pixels are drawn as 0 or 1. Brackets: 95%."
    return Table("Generator", ("", ">value", ">n"), tuple(rows), note)
