"""The figures of an autoencoder, and of its refinement, as plain tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnnkit.run.reporting.digest import Table, rows_of, section
from bnnkit.run.reporting.wording import as_float, clean, count_text, figure_text, n_text

__all__ = ["eval_cards", "eval_tables", "refine_cards", "refine_tables"]

_MOST_LATENTS = 8


def eval_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return bound, importance sampling and latents of `vae-eval`."""
    found = (_bound(body), _importance(body), _latents(body))
    return [table for table in found if table is not None]


def refine_tables(body: Mapping[str, Any]) -> list[Table]:
    """Return refinement, importance sampling, the gap and the other domains of `vae-refine`."""
    found = [_refinement(body), _importance(body), _gap(body), _latents(body)]
    found += [_outside(row) for row in rows_of(body, "ood")]
    return [table for table in found if table is not None]


def eval_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of `vae-eval`."""
    slim, bound, latents = (section(body, name) for name in ("slim", "bound", "latents"))
    last = rows_of(body, "importance")[-1:]
    samples = f"{count_text(last[0].get('samples'))} importance samples" if last else ""
    return [
        {"title": _bound_word(body).capitalize(), "big": _nats(bound.get("elbo")),
         "sub": f"n\u00a0=\u00a0{n_text(bound.get('elbo'))}"},
        {"title": _loss_word(body).capitalize(), "big": _nats(slim.get("nll")), "sub": samples},
        {"title": "Active latents", "big": count_text(latents.get("active")),
         "sub": f"of {count_text(latents.get('count'))}"},
    ]  # fmt: skip


def refine_cards(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the verdict figures of `vae-refine`."""
    old, new, paired = (section(body, name) for name in ("original", "slim", "paired"))
    work, cards = section(body, "refinement"), []
    for key, title, change in (
        ("elbo", _bound_word(body).capitalize(), paired.get("elbo_gain")),
        ("nll", _loss_word(body).capitalize(), paired.get("nll_rise")),
    ):
        big = f"{as_float(old.get(key)):.2f} → {_nats(new.get(key))}"
        cards.append({"title": title, "big": big, "sub": figure_text(change, sign=True)})
    share = f"{count_text(work.get('improved'))} of {count_text(work.get('n'))}"
    sub = f"the others keep the {_owner(work)} posterior"
    cards.append({"title": "Data improved", "big": share, "sub": sub})
    cost = f"{as_float(work.get('cpu_ms')):.3g} ms"
    sub = f"{count_text(work.get('steps'))} steps, {clean(work.get('family'))}"
    cards.append({"title": "CPU time a datum", "big": cost, "sub": sub})
    return cards


def _is_grey(body: Mapping[str, Any]) -> bool:
    """Tell whether the data are grey under a Bernoulli likelihood: nothing is a bound there."""
    return section(body, "model").get("is_bound") is False


def _bound_word(body: Mapping[str, Any]) -> str:
    """Return what the objective is called."""
    return "objective (no bound)" if _is_grey(body) else "evidence bound"


def _loss_word(body: Mapping[str, Any]) -> str:
    """Return what importance sampling estimates."""
    return "importance-weighted loss" if _is_grey(body) else "minus log p(x)"


def _owner(refinement: Mapping[str, Any]) -> str:
    """Return whose posterior a datum keeps that did not gain."""
    return "trained" if refinement.get("start") == "trained" else "encoder's"


def _nats(node: object) -> str:
    value = as_float(node)
    return "-" if math.isnan(value) else f"{value:.2f} nats"


def _plain(node: object, digits: int) -> str:
    value = as_float(node)
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _bound(body: Mapping[str, Any]) -> Table | None:
    """Return the bound and its parts."""
    bound = section(body, "bound")
    if not bound:
        return None
    names = (("elbo", _bound_word(body)), ("log_likelihood", "log p(x | z)"),
             ("kl", "KL(q || p)"))  # fmt: skip
    rows = [(name, figure_text(bound.get(key)), n_text(bound.get(key))) for key, name in names]
    if "encoder_elbo" in bound:
        encoder, gain = bound.get("encoder_elbo"), bound.get("encoder_gain")
        rows += [
            (f"{_bound_word(body)} of the encoder", figure_text(encoder), n_text(encoder)),
            ("gain over the encoder", figure_text(gain, sign=True), n_text(gain)),
        ]
    judged = section(body, "posterior")
    kind = clean(judged.get("kind"))
    if judged.get("family") is not None:
        kind += f", {clean(judged.get('family'))}"
    how = "in closed form" if bound.get("kl_closed") is True else "by draws"
    draws, error = count_text(bound.get("draws")), _plain(bound.get("error_of_draws"), 3)
    note = (
        f"Posterior: {kind}. {draws} draws a datum, standard error {error} nats; KL {how}. "
        "Brackets: 95% intervals over data."
    )
    return Table("Bound", ("", ">value", ">n"), tuple(rows), note)


def _importance(body: Mapping[str, Any]) -> Table | None:
    """Return log p(x) by importance sampling, and by annealed importance sampling."""
    rows = [
        (
            clean(row.get("posterior")),
            count_text(row.get("samples")),
            figure_text(row.get("nll")),
            _plain(row.get("error_of_draws"), 3),
            _plain(row.get("ess_median"), 1),
            _plain(row.get("k_hat_median"), 2),
            _percent(row.get("unreliable")),
        )
        for row in rows_of(body, "importance")
    ]
    ais = section(body, "ais")
    if ais:
        name = f"prior, annealed in {count_text(ais.get('temperatures'))}"
        error, ess = _plain(ais.get("error_of_chains"), 3), _plain(ais.get("ess_median"), 1)
        nll = figure_text(ais.get("nll"))
        rows.append((name, count_text(ais.get("chains")), nll, error, ess, "-", "-"))
    if not rows:
        return None
    columns = ("samples of", ">samples", f">{_loss_word(body)}", ">error of draws",
               ">ESS, median", ">k-hat, median", ">k-hat > 0.7")  # fmt: skip
    note = (
        "An estimate falls towards its limit with more samples; where k-hat is above 0.7 it is "
        "still falling. Brackets: 95% intervals over data."
    )
    if _is_grey(body):
        note += " Of grey data under a Bernoulli likelihood that limit is not -log p(x)."
    if ais:
        note += f" Annealed: the first {n_text(ais.get('nll'))} data."
    return Table("Likelihood by importance sampling", columns, tuple(rows), note)


def _percent(node: object) -> str:
    value = as_float(node)
    return "-" if math.isnan(value) else f"{value:.1f} %"


def _latents(body: Mapping[str, Any]) -> Table | None:
    """Return the latents of the largest divergence."""
    latents = section(body, "latents")
    kl, activity = latents.get("kl"), latents.get("activity")
    if not isinstance(kl, list) or not isinstance(activity, list) or len(kl) != len(activity):
        return None
    order = sorted(range(len(kl)), key=lambda i: -as_float(kl[i]))[:_MOST_LATENTS]
    rows = tuple((str(i), _plain(kl[i], 3), _plain(activity[i], 3)) for i in order)
    split = section(latents, "split")
    note = f"{count_text(latents.get('active'))} of {count_text(latents.get('count'))} are active."
    if split:
        n = as_float(split.get("n"))
        most = f"{math.log(n):.2f}" if n >= 1 else "-"
        note += (
            f" Of the divergence, {_plain(split.get('mutual_information'), 2)} nats tell data "
            f"apart (n = {count_text(split.get('n'))} can show {most} at most), and "
            f"{_plain(split.get('marginal_kl'), 2)} part their aggregate posterior from the prior."
        )
    return Table("Latents", ("latent", ">KL, nats", ">variance of means"), rows, note)


def _refinement(body: Mapping[str, Any]) -> Table | None:
    """Return what the refinement did."""
    work = section(body, "refinement")
    if not work:
        return None
    steps, draws = count_text(work.get("steps")), count_text(work.get("draws"))
    rows = (
        ("family", clean(work.get("family"))),
        ("optimiser", f"{clean(work.get('optimiser'))}, rate {as_float(work.get('rate')):.4g}"),
        ("steps, draws in each", f"{steps}, {draws}"),
        ("data improved", f"{count_text(work.get('improved'))} of {count_text(work.get('n'))}"),
        ("data that diverged, and were stopped", count_text(work.get("diverged"))),
        ("gain, median", f"{_plain(work.get('gain_median'), 2)} nats"),
        ("gain, least and most",
         f"{_plain(work.get('gain_least'), 2)}, {_plain(work.get('gain_most'), 2)} nats"),
        ("CPU time a datum", f"{_plain(work.get('cpu_ms'), 2)} ms"),
    )  # fmt: skip
    note = (
        "A datum is refined where draws of their own say that it gained, and keeps the "
        f"{_owner(work)} posterior otherwise, or where the fresh draws behind these figures show "
        "a loss."
    )
    return Table("Refinement", ("", ">value"), rows, note)


def _gap(body: Mapping[str, Any]) -> Table | None:
    """Return where the distance to log p(x) comes from."""
    gap = section(body, "gap")
    bounds, parts = section(gap, "bounds"), section(gap, "parts")
    if not bounds:
        return None
    names = {"encoder": "encoder's posterior", "diagonal": "best diagonal one",
             "bernoulli": "best one of independent latents",
             "full": "best one with a full covariance",
             "log_p": "its limit" if _is_grey(body) else "log p(x)"}  # fmt: skip
    closes = dict(zip(list(bounds)[1:], parts, strict=False))
    rows = tuple(
        (
            names.get(key, clean(key)),
            _nats(value),
            figure_text(parts[closes[key]], sign=True) if key in closes else "",
            closes.get(key, ""),
        )
        for key, value in bounds.items()
    )
    note = (
        f"The first {count_text(gap.get('n'))} data; {count_text(gap.get('steps'))} steps; the "
        f"last by {count_text(gap.get('samples'))} samples of the best posterior (median ESS "
        f"{_plain(gap.get('ess_median'), 0)})."
    )
    if gap.get("trained") is not None:
        note += f" The posterior that the run trained: {figure_text(gap.get('trained'))}."
    word = "objective" if _is_grey(body) else "bound"
    return Table("Where the gap comes from", ("", f">{word}", ">gain", "part"), rows, note)


def _outside(row: Mapping[str, Any]) -> Table:
    """Return how well each score tells another domain apart."""
    rows = tuple(
        (clean(score.get("score")), _auroc(section(score, "auroc"))) for score in
        rows_of(row, "scores")
    )  # fmt: skip
    note = (
        f"n = {count_text(row.get('n'))} of them. Mean regret {figure_text(row.get('regret'))} "
        f"there and {figure_text(row.get('inside_regret'))} here."
    )
    title = f"Out of domain: {clean(row.get('name'))}"
    return Table(title, ("score", ">AUROC, %"), rows, note)


def _auroc(found: Mapping[str, Any]) -> str:
    value, low, high = (100 * as_float(found.get(key)) for key in ("value", "low", "high"))
    return "-" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
