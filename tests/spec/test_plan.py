"""Plans and reports survive JSON, and refuse what is not theirs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnnkit.errors import StructureError, UsageError
from bnnkit.spec import ClassPlan, ModelSpec, Plan, Quantity, Report
from bnnkit.spec.plan import format_ranges, parse_ranges
from bnnkit.spec.prune import parse_scales


@given(st.sets(st.integers(0, 500)))
def test_ranges_round_trip(indices):
    ordered = sorted(indices)
    assert parse_ranges(format_ranges(ordered)) == ordered


@pytest.mark.parametrize("text", ["3-1", "1,1", "a", "5,2-3", "-4", "0-99999999999"])
def test_other_ranges_are_refused(text):
    with pytest.raises(StructureError):
        parse_ranges(text)


def test_plan_round_trips():
    plan = Plan(
        ModelSpec(arch="bnnkit:digits-cnn", arch_args={"num_classes": 3}, input_shape=(1, 8, 8)),
        "graph",
        (ClassPlan("conv1", 4, (0, 2), (0.5, 1.0)),),
        {"conv1.weight": {0: (0, 2)}},
    )
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1, "model": 3}', "null"]
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(StructureError):
        Plan.from_json(text)


def test_report_round_trips_and_keeps_json_finite():
    report = Report("eval", {}, {"slim": {"error": Quantity(8.0, "%", 100, 7.0, 9.0)},
                                 "odd": {"x": float("nan")}})  # fmt: skip
    text = report.to_json()
    assert "NaN" not in text
    again = Report.from_json(text)
    assert again.quantity("slim", "error") == Quantity(8.0, "%", 100, 7.0, 9.0)
    assert again.quantity("slim", "nll") is None
    assert again.sections["odd"]["x"] is None


@pytest.mark.parametrize("body", [[], {"schema": 1}, {"schema": 7, "command": "eval"}])
def test_what_is_no_report_is_refused(body):
    with pytest.raises(UsageError):
        Report.from_json(json.dumps(body))


@pytest.mark.parametrize("value", ["x", "conv1=", "-1", "a=inf", "nan"])
def test_scales_that_are_no_numbers_are_refused(value):
    with pytest.raises(UsageError):
        parse_scales([value])
