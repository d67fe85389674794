"""The comparison: each figure is the metric itself, and the verdict is read off the intervals."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn import functional as F

from bnnkit.run.evaluate import compare, measure, measure_equal_mass
from bnnkit.run.uncertainty.answers import Answers
from bnnkit.run.uncertainty.side_by_side import Way, curves, method_rows, verdict

N, CLASSES = 400, 10


def source(seed):
    return torch.Generator().manual_seed(seed)


LABELS = torch.randint(CLASSES, (N,), generator=source(99))
LOGITS = torch.randn(N, CLASSES, generator=source(98)).double()


def answers(edge=2.0, scale=1.0, *, jitter=0.0, seed=0, samples=1, labels=LABELS, n=N):
    """Answers that are right more often the larger `edge`; a scale of `edge` is calibrated."""
    logits = LOGITS[:n] + jitter * torch.randn(n, CLASSES, generator=source(seed)).double()
    logits[torch.arange(n), labels[:n]] += edge
    log_probs = F.log_softmax(scale * logits, dim=1)
    found = Answers(log_probs, labels[:n], samples=samples)
    if samples == 1:
        return found
    entropy = -(log_probs.exp() * log_probs).sum(1)
    share = torch.rand(n, generator=source(seed + 1)).double()
    parts = {"expected_entropy": entropy * share, "mutual_information": entropy * (1 - share)}
    return Answers(log_probs, labels[:n], samples=samples, **parts)


def ways(delivered, *, temperature=None, outside=None):
    """Plain batch norm, perhaps a temperature alone, and what is delivered."""
    plain = answers(scale=6.0)
    out = [Way("bn", "batch norm", plain, plain, (outside or {}).get("bn", {}))]
    if temperature is not None:
        out.append(Way("temperature", "batch norm + temperature", temperature, plain,
                       temperature=2.5))  # fmt: skip
    theirs = (outside or {}).get("lowrank", {})
    return [*out, Way("lowrank", "low-rank SBN", delivered, plain, theirs, delivered=True)]


def read(found):
    return verdict(found, method_rows(found))


# --- figures --------------------------------------------------------------------------------


def test_a_row_holds_the_metrics_themselves():
    found = ways(answers(scale=1.5, jitter=0.3, samples=7))
    first, second = method_rows(found)
    assert (first["name"], first["samples"], first["n"]) == ("bn", 1, N)
    assert "paired" not in first
    assert (second["samples"], second["delivered"], second["temperature"]) == (7, True, None)
    p = found[1].answers.log_probs
    assert second["nll"].value == pytest.approx(float(F.nll_loss(p, LABELS)))
    wrong = (p.argmax(1) != LABELS).double()
    assert second["error"].value == pytest.approx(100 * float(wrong.mean()))
    target = F.one_hot(LABELS, CLASSES)
    assert second["brier"].value == pytest.approx(float(((p.exp() - target) ** 2).sum(1).mean()))
    before = found[0].answers.log_probs
    rises = (F.nll_loss(p, LABELS, reduction="none") -
             F.nll_loss(before, LABELS, reduction="none")).numpy()  # fmt: skip
    low, high = stats.t.interval(0.95, N - 1, rises.mean(), stats.sem(rises))
    rise = second["paired"]["nll_rise"]
    assert (rise.value, rise.low, rise.high) == pytest.approx((rises.mean(), low, high))


def test_rows_say_what_evaluate_says():
    found = ways(answers(scale=1.5))
    a, b = (way.answers.predictions for way in found)
    row = method_rows(found)[1]
    for key, value in {**measure(b), **measure_equal_mass(b)}.items():
        assert row[key] == value
    mass = measure_equal_mass(b, a)["ece_equal_mass_rise"]
    assert row["paired"] == {**compare(a, b), "ece_equal_mass_rise": mass}


def test_a_way_on_fewer_inputs_is_paired_with_the_same_ones():
    plain, rows = answers(scale=3.0), torch.tensor([5, 1, 300, 17, 44])
    few = answers(scale=1.0).select(rows)
    found = [Way("bn", "batch norm", plain, plain), Way("mc-bn", "MC-BN", few, plain.select(rows))]
    row = method_rows(found)[1]
    expected = float(F.nll_loss(few.log_probs, LABELS[rows])) - float(
        F.nll_loss(plain.log_probs[rows], LABELS[rows])
    )
    assert row["n"] == 5
    assert row["paired"]["nll_rise"].value == pytest.approx(expected)


def outside_of(scale, n=150, samples=1):
    """Answers to inputs of another domain: less sure, with labels that mean nothing."""
    return answers(0.0, scale, seed=5, samples=samples, labels=torch.zeros(N).long(), n=n)


def test_detection_is_the_area_under_the_curve_of_each_score():
    inside = answers(scale=1.5, samples=7)
    found = ways(inside, outside={
        "bn": {"mnist": outside_of(1.0)}, "lowrank": {"mnist": outside_of(0.7, samples=7)},
    })  # fmt: skip
    first, second = (row["ood"]["mnist"] for row in method_rows(found))
    assert set(first) == {"entropy"}
    theirs = found[1].outside["mnist"]
    truth = np.r_[np.zeros(N), np.ones(150)]
    for key in ("entropy", "expected_entropy", "mutual_information"):
        each = [
            -(a.log_probs.exp() * a.log_probs).sum(1) if key == "entropy" else getattr(a, key)
            for a in (inside, theirs)
        ]
        score = torch.cat(each).numpy()
        assert second[key]["auroc"].value == pytest.approx(100 * roc_auc_score(truth, score))
        area = average_precision_score(truth, score)
        assert second[key]["aupr"].value == pytest.approx(100 * area)
        assert second[key]["auroc"].n == N + 150
    rise = second["auroc_rise"]
    gap = second["entropy"]["auroc"].value - first["entropy"]["auroc"].value
    assert rise.value == pytest.approx(gap)
    assert rise.low < rise.value < rise.high
    other = second["expected_entropy"]["auroc"].value - first["entropy"]["auroc"].value
    assert second["auroc_rise_expected_entropy"].value == pytest.approx(other)


def test_the_pictures_hold_what_they_show():
    found = ways(answers(scale=1.5), outside={"bn": {"mnist": outside_of(1.0)}, "lowrank": {}})
    drawn = curves(found, CLASSES)
    assert [(c["name"], c["set"], c["inside"]) for c in drawn["entropy_cdf"]] == [
        ("batch norm", "test", True),
        ("batch norm", "mnist", False),
        ("low-rank SBN", "test", True),
    ]
    p = found[0].answers.log_probs
    entropy = -(p.exp() * p).sum(1)
    cdf = drawn["entropy_cdf"][0]
    assert (cdf["entropy"][0], cdf["entropy"][-1]) == pytest.approx((0, math.log(CLASSES)))
    assert cdf["cdf"][-1] == 1.0
    for at, share in list(zip(cdf["entropy"], cdf["cdf"], strict=True))[::25]:
        assert share == pytest.approx(float((entropy <= at).double().mean()))
    assert cdf["cdf"] == sorted(cdf["cdf"])
    bins = drawn["reliability"][0]["bins"]
    assert sum(b["n"] for b in bins) == N
    confidence, correct = p.exp().max(1).values, (p.argmax(1) == LABELS).double()
    mean = sum(b["n"] * b["confidence"] for b in bins) / N
    share = sum(b["n"] * b["accuracy"] for b in bins) / N
    assert (mean, share) == pytest.approx((float(confidence.mean()), float(correct.mean())))
    gap = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / N
    assert drawn["reliability"][0]["ece"] == pytest.approx(100 * gap)
    curve = drawn["risk_coverage"][0]
    assert curve["coverage"][-1] == pytest.approx(1.0)
    assert curve["risk"][-1] == pytest.approx(100 * float(1 - correct.mean()))


# --- verdict --------------------------------------------------------------------------------


def test_better_worse_and_undecided_are_told_by_the_interval():
    for delivered, words in (
        (answers(scale=2.0), "is better than plain batch norm"),
        (answers(scale=12.0), "is worse than plain batch norm"),
        (answers(scale=6.0, jitter=0.01), "is not told apart from plain batch norm"),
    ):
        (line,) = read(ways(delivered))
        assert line.startswith(f"Low-rank SBN {words} in log-loss (")


def test_the_first_sentence_quotes_its_figure():
    found = ways(answers(scale=1.0))
    rise = method_rows(found)[1]["paired"]["nll_rise"]
    assert f"({rise.value:+.4f} nats [{rise.low:+.4f}, {rise.high:+.4f}])" in read(found)[0]


def test_a_temperature_that_wins_is_said_to_win():
    line = read(ways(answers(scale=4.0, samples=30), temperature=answers(scale=2.0)))[1]
    assert line.startswith("A temperature alone (2.50) wins: the noise costs +0.")
    assert "30 passes in place of one" in line
    assert "leave the noise out" in line


def test_a_temperature_that_is_beaten_is_said_to_be():
    line = read(ways(answers(scale=2.0), temperature=answers(scale=4.0)))[1]
    assert line.startswith("It also beats a temperature alone, by -0.")


def test_a_temperature_that_ties_is_not_told_apart():
    tie = answers(scale=2.0, jitter=0.01, samples=30)
    line = read(ways(tie, temperature=answers(scale=2.0)))[1]
    assert line.startswith("A temperature alone (2.50) is not told apart from it (")
    assert "one pass in place of 30" in line


def test_worse_detection_is_said_with_the_better_score():
    inside = answers(scale=3.0, samples=7)
    sharp = outside_of(4.0, samples=7)
    found = ways(inside, outside={"bn": {"mnist": outside_of(0.5)}, "lowrank": {"mnist": sharp}})
    line = read(found)[-1]
    assert line.startswith(
        "The entropy of low-rank SBN tells mnist apart worse than that of plain"
    )
    rise = method_rows(found)[1]["ood"]["mnist"]["auroc_rise"]
    assert f"({rise.value:+.2f} points of AUROC [{rise.low:+.2f}, {rise.high:+.2f}])" in line


def test_detection_that_is_not_worse_is_not_mentioned():
    same = {"mnist": outside_of(1.0)}
    found = ways(answers(scale=6.0), outside={"bn": same, "lowrank": same})
    assert len(read(found)) == 1
