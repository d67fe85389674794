"""The reports of `vae-eval` and `vae-refine` as text and page, from whatever a file holds."""

import io

import pytest
from rich.console import Console

from bnnkit.cli.tables import render
from bnnkit.run.reporting.html import render_html
from bnnkit.run.reporting.summary import to_markdown
from bnnkit.run.reporting.vae_digest import eval_cards, eval_tables, refine_cards, refine_tables
from bnnkit.spec.report import Quantity, Report


def nats(value, n=100):
    return Quantity(value, "nats", n, value - 0.5, value + 0.5)


def common():
    return {
        "model": {"file": "vae.pth", "notes": ["a | note"], "is_bound": True},
        "latents": {
            "count": 3, "active": 2, "kl": [0.5, 0.0, 2.25], "activity": [0.25, 0.0, 0.75],
            "split": {"n": 100, "mutual_information": 2.5, "marginal_kl": 0.25, "se": 0.01},
        },
        "importance": [
            {"posterior": "encoder", "samples": 100, "nll": nats(91.0), "error_of_draws": 0.125},
            {"posterior": "encoder", "samples": 5000, "nll": nats(90.5), "error_of_draws": 0.0625,
             "ess_median": 312.5, "ess_least": 2.0, "k_hat_median": 0.625, "unreliable": 37.5},
        ],
    }  # fmt: skip


def refinement(**changes):
    sections = {
        **common(),
        "method": {"name": "vae-refine", "config": {}},
        "refinement": {
            "family": "mn:5x4", "optimiser": "natural", "steps": 20, "draws": 3, "rate": 0.5,
            "n": 100, "improved": 98, "diverged": 1, "gain_least": -0.0625, "gain_median": 3.75,
            "gain_most": 9.5, "error_of_draws": 0.1, "cpu_ms": 1.5, "curve": [-99.0, -96.0],
        },
        "original": {"elbo": nats(-99.25), "nll": nats(91.0)},
        "slim": {"elbo": nats(-95.5), "nll": nats(90.5)},
        "paired": {"elbo_gain": nats(3.75), "nll_rise": nats(-0.5)},
        "gap": {
            "n": 20, "samples": 2000, "steps": 200, "ess_median": 250.0,
            "bounds": {"encoder": nats(-99.0), "diagonal": nats(-94.5), "full": nats(-92.75),
                       "log_p": nats(-90.25)},
            "parts": {"amortisation": nats(4.5), "family": nats(1.75), "rest": nats(2.5)},
        },
        "ood": [{"name": "fashion-mnist", "n": 50, "regret": nats(40.0), "elbo": nats(-300.0),
                 "inside_regret": nats(3.75),
                 "scores": [{"score": "likelihood regret",
                             "auroc": {"value": 0.9875, "low": 0.975, "high": 1.0}}]}],
        "checks": [{"name": "refine: torch = onnx", "worst": 1e-6, "tolerance": 1e-3,
                    "unit": "relative", "n": 64, "passed": True}],
        "grids": [],
    }  # fmt: skip
    return Report("vae-refine", {}, {**sections, **changes})


def evaluation(**changes):
    sections = {
        **common(),
        "method": {"name": "vae-eval", "config": {}},
        "posterior": {"kind": "refined", "run": "run"},
        "bound": {"elbo": nats(-95.5), "log_likelihood": nats(-70.25), "kl": nats(25.25),
                  "kl_closed": True, "kl_by_draws": nats(25.0), "draws": 100,
                  "error_of_draws": 0.0625},
        "slim": {"nll": nats(90.5)},
        "ais": {"nll": nats(90.25, 20), "chains": 16, "temperatures": 1000,
                "error_of_chains": 0.03125, "ess_median": 12.5, "acceptance": 0.75},
        "grids": [],
    }  # fmt: skip
    return Report("vae-eval", {}, {**sections, **changes})


def terminal(report):
    sink = io.StringIO()
    render(report, Console(file=sink, width=220, force_terminal=False))
    return sink.getvalue()


def rows(tables):
    return {table.title: [" | ".join(row) for row in table.rows] for table in tables}


def test_the_tables_of_a_refinement():
    found = rows(refine_tables(refinement().to_dict()))
    assert list(found) == [
        "Refinement", "Likelihood by importance sampling", "Where the gap comes from", "Latents",
        "Out of domain: fashion-mnist",
    ]  # fmt: skip
    work = found["Refinement"]
    assert "optimiser | natural, rate 0.5" in work
    assert "data improved | 98 of 100" in work
    assert "gain, least and most | -0.06, 9.50 nats" in work
    assert found["Where the gap comes from"] == [
        "encoder's posterior | -99.00 nats |  | ",
        "best diagonal one | -94.50 nats | +4.50 nats [+4.00, +5.00] | amortisation",
        "best one with a full covariance | -92.75 nats | +1.75 nats [+1.25, +2.25] | family",
        "log p(x) | -90.25 nats | +2.50 nats [+2.00, +3.00] | rest",
    ]
    assert found["Latents"][0] == "2 | 2.250 | 0.750"  # the largest divergence first
    assert found["Out of domain: fashion-mnist"] == ["likelihood regret | 98.75 [97.50, 100.00]"]
    last = found["Likelihood by importance sampling"][-1]
    assert last == "encoder | 5,000 | 90.50 nats [90.00, 91.00] | 0.062 | 312.5 | 0.62 | 37.5 %"


def test_the_tables_of_an_evaluation():
    found = rows(eval_tables(evaluation().to_dict()))
    assert found["Bound"] == [
        "evidence bound | -95.50 nats [-96.00, -95.00] | 100",
        "log p(x | z) | -70.25 nats [-70.75, -69.75] | 100",
        "KL(q || p) | 25.25 nats [24.75, 25.75] | 100",
    ]
    assert found["Likelihood by importance sampling"][-1] == (
        "prior, annealed in 1,000 | 16 | 90.25 nats [89.75, 90.75] | 0.031 | 12.5 | - | -"
    )
    (bound, *_) = eval_tables(evaluation().to_dict())
    assert "Posterior: refined." in bound.note
    assert "KL in closed form" in bound.note


def test_a_trained_posterior_stands_beside_the_encoders():
    bound = {"elbo": nats(-95.5), "encoder_elbo": nats(-97.0), "encoder_gain": nats(1.5)}
    report = evaluation(posterior={"kind": "trained", "family": "iaf:2"}, bound=bound)
    (table, *_) = eval_tables(report.to_dict())
    assert "Posterior: trained, iaf:2." in table.note
    assert [" | ".join(row) for row in table.rows[-2:]] == [
        "evidence bound of the encoder | -97.00 nats [-97.50, -96.50] | 100",
        "gain over the encoder | +1.50 nats [+1.00, +2.00] | 100",
    ]
    work = {**refinement().sections["refinement"], "start": "trained"}
    gap = {**refinement().sections["gap"], "trained": nats(-93.0)}
    report = refinement(refinement=work, gap=gap)
    tables = {table.title: table.note for table in refine_tables(report.to_dict())}
    assert "keeps the trained posterior otherwise" in tables["Refinement"]
    told = "The posterior that the run trained: -93.00 nats [-93.50, -92.50]."
    assert told in tables["Where the gap comes from"]
    assert "Trained against refined" in terminal(report)
    (*_, kept, _) = refine_cards(report.to_dict())
    assert kept["sub"] == "the others keep the trained posterior"


def test_cards():
    cards = {card["title"]: card["big"] for card in refine_cards(refinement().to_dict())}
    assert cards == {
        "Evidence bound": "-99.25 → -95.50 nats", "Minus log p(x)": "91.00 → 90.50 nats",
        "Data improved": "98 of 100", "CPU time a datum": "1.5 ms",
    }  # fmt: skip
    cards = {card["title"]: card["big"] for card in eval_cards(evaluation().to_dict())}
    assert cards == {
        "Evidence bound": "-95.50 nats", "Minus log p(x)": "90.50 nats", "Active latents": "2"
    }  # fmt: skip


@pytest.mark.parametrize("make", [refinement, evaluation])
def test_nothing_is_a_bound_of_grey_data(make):
    report = make(model={"file": "vae.pth", "is_bound": False})
    for text in (terminal(report), render_html(report), to_markdown(report)):
        assert "objective (no bound)" in text.lower()
        assert "evidence bound" not in text.lower()
        assert "minus log p(x)" not in text.lower()


@pytest.mark.parametrize("make", [refinement, evaluation])
def test_a_page_and_a_summary_hold_every_table(make):
    report = make()
    body = report.to_dict()
    page, summary, text = render_html(report), to_markdown(report), terminal(report)
    for table in (refine_tables if make is refinement else eval_tables)(body):
        for place in (page, summary, text):
            assert table.title in place


@pytest.mark.parametrize("make", [refinement, evaluation])
def test_foreign_names_cannot_mark_up_the_page(make):
    evil = "<img src=x onerror=alert(1)>"
    report = make(
        model={"file": evil, "notes": [evil]}, posterior={"kind": evil},
        ood=[{"name": evil, "scores": [{"score": evil}]}],
        importance=[{"posterior": evil}], grids=[{"name": evil, "png": "x"}],
        refinement={"family": evil, "optimiser": evil},
    )  # fmt: skip
    page = render_html(report)
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("tables", [refine_tables, eval_tables])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"latents": {"kl": [1.0], "activity": []}, "importance": "x", "gap": [], "bound": 3},
        {"refinement": {"rate": None}, "gap": {"bounds": {"encoder": None}}, "ood": [{}]},
        {"bound": {"elbo": {"value": None}}, "importance": [{}], "ais": {"nll": None}},
        {"latents": {"kl": [None], "activity": [None], "active": None, "count": 1}},
    ],
)
def test_half_a_report_is_shown_as_far_as_it_goes(tables, body):
    for table in tables(body):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_the_split_of_the_divergence_names_its_limit():
    (*_, latents) = eval_tables(evaluation().to_dict())
    assert latents.note.startswith("2 of 3 are active. Of the divergence, 2.50 nats tell data ")
    assert "(n = 100 can show 4.61 at most), and 0.25 part" in latents.note
