"""What `vae-eval`, `vae-refine` and their gate can be told."""

import pytest

from bnnkit.errors import UsageError
from bnnkit.run.gates import judge
from bnnkit.spec import Quantity, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.vae_eval import VaeEvalConfig
from bnnkit.spec.vae_refine import RefineConfig, VaeRefineConfig


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"limit": 0}, "--limit"),
        ({"elbo_samples": 1}, "--elbo-samples"),
        ({"samples": ()}, "--samples"),
        ({"samples": (0, 5)}, "--samples"),
        ({"samples": (500, 100)}, "--samples"),
        ({"samples": (100, 100)}, "--samples"),
        ({"ais": -1}, "--ais"),
        ({"ais_temperatures": 1}, "--ais-temperatures"),
        ({"ais_chains": 0}, "--ais-chains"),
        ({"latents_shown": -1}, "--latents-shown"),
        ({"batch_size": 0}, "--batch-size"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_evaluations_without_meaning_are_refused(values, option):
    with pytest.raises(UsageError, match=f"{option}: "):
        VaeEvalConfig(**values)


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"limit": 0}, "--limit"),
        ({"importance": (5, 2)}, "--importance"),
        ({"gap": -1}, "--gap"),
        ({"ood_limit": 1}, "--ood-limit"),
    ],
)
def test_refinements_without_meaning_are_refused(values, option):
    with pytest.raises(UsageError, match=f"{option}: "):
        VaeRefineConfig(**values)


def test_the_placeholder_of_a_matrix_is_explained():
    with pytest.raises(UsageError, match=r"R and C stand for numbers.*mn:4x5"):
        RefineConfig(family="mn:RxC")


@pytest.mark.parametrize(
    ("limit", "verdict", "code"), [(3.0, "pass", 0), (4.5, "fail", 3), (4.0, "inconclusive", 5)]
)
def test_a_gain_is_judged_by_its_interval(limit, verdict, code):
    gain = Quantity(3.75, "nats", 100, 3.25, 4.25)
    report = Report("vae-refine", {}, {"paired": {"elbo_gain": gain}})
    result = judge(report, GateOptions(min_elbo_gain=limit, strict=True))
    assert [row["verdict"] for row in result.rows] == [verdict]
    assert result.exit_code == code


def test_every_gate_says_where_its_figure_comes_from():
    limits = {"max_fid": 1.0, "max_rhat": 1.1, "min_acceptance": 0.5, "min_elbo_gain": 1.0,
              "max_export_diff": 0.1, "max_nll": 1.0}  # fmt: skip
    result = judge(Report("vae-eval", {}, {}), GateOptions(**limits))
    assert result.exit_code == 2
    assert {row["verdict"] for row in result.rows} == {"missing"}
    notes = {row["gate"]: row["note"] for row in result.rows}
    assert "'bnnkit vae-refine'" in notes["min-elbo-gain"]
    assert "'bnnkit vae-eval'" in notes["max-nll"]


def test_a_gain_may_be_limited_below_zero():
    assert GateOptions(min_elbo_gain=-0.5).limits() == {"min_elbo_gain": -0.5}
    with pytest.raises(UsageError, match="finite"):
        GateOptions(min_elbo_gain=float("nan"))
