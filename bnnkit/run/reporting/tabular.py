"""The commands whose reports are plain tables and grids of images, each with its digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnnkit.run.reporting.avo_digest import avo_cards, avo_tables
from bnnkit.run.reporting.digest import Table
from bnnkit.run.reporting.grids import grids
from bnnkit.run.reporting.proposal_digest import proposal_cards, proposal_tables
from bnnkit.run.reporting.vae_digest import (
    eval_cards,
    eval_tables,
    refine_cards,
    refine_tables,
)
from bnnkit.run.reporting.vae_fit_digest import vae_fit_cards, vae_fit_tables
from bnnkit.run.reporting.vae_plots import eval_panels, refine_panels

__all__ = [
    "TABULAR",
    "Tabular",
    "tabular_cards",
    "tabular_grids",
    "tabular_panels",
    "tabular_tables",
]


@dataclass(frozen=True)
class Tabular:
    """How the report of one command is shown.

    Args:
        lead: The sentence at the top of its page.
        tables: Its tables, in the order of reading.
        cards: The verdict figures of its page, each with `title`, `big` and `sub`.
        panels: The charts of its page, each with `title` and `svg`.
    """

    lead: str
    tables: Callable[[Mapping[str, Any]], Sequence[Table]]
    cards: Callable[[Mapping[str, Any]], list[dict[str, str]]]
    panels: Callable[[Mapping[str, Any]], list[dict[str, str]]] | None = None


TABULAR = {
    "vae-eval": Tabular(
        "A pretrained autoencoder, judged by its bound and by importance sampling",
        eval_tables,
        eval_cards,
        eval_panels,
    ),
    "vae-refine": Tabular(
        "The posterior of each datum, refined under a pretrained autoencoder",
        refine_tables,
        refine_cards,
        refine_panels,
    ),
    "mh-proposal": Tabular(
        "A learned independent proposal, and chains of Metropolis-Hastings with it",
        proposal_tables,
        proposal_cards,
    ),
    "vae-fit": Tabular(
        "An autoencoder in training, and the bound that it reaches",
        vae_fit_tables,
        vae_fit_cards,
    ),
    "avo-toy": Tabular(
        "Chains and flows on an energy in the plane, by several objectives",
        avo_tables,
        avo_cards,
    ),
}
"""By the name of the command."""


def tabular_tables(body: Mapping[str, Any]) -> Sequence[Table]:
    """Return the tables of such a command; empty for another."""
    known = TABULAR.get(str(body.get("command")))
    return () if known is None else known.tables(body)


def tabular_cards(body: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """Return the verdict figures of such a command; None for another."""
    known = TABULAR.get(str(body.get("command")))
    return None if known is None else known.cards(body)


def tabular_panels(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the charts of such a command; empty for another, and for one that draws none."""
    known = TABULAR.get(str(body.get("command")))
    return [] if known is None or known.panels is None else known.panels(body)


def tabular_grids(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the grids of images of such a command; empty for another."""
    return grids(body) if str(body.get("command")) in TABULAR else []
