"""Warnings of `sbn-fit`: each where its figures call for it, and nowhere else."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from bnnkit.run.uncertainty.answers import Answers
from bnnkit.run.uncertainty.guards import advice, trained_batch_size
from bnnkit.run.uncertainty.side_by_side import Way, method_rows
from bnnkit.spec.config import SbnConfig

N, CLASSES = 300, 5


@dataclass
class Part:
    classes: int = CLASSES


@dataclass
class Data:
    test: Part


@dataclass
class Bench:
    data: Data


BENCH = Bench(Data(Part()))
LABELS = torch.arange(N) % CLASSES


def answers(edge=3.0, scale=1.0):
    logits = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0)).double()
    logits[torch.arange(N), LABELS] += edge
    return Answers(F.log_softmax(scale * logits, dim=1), LABELS)


def warned(*, plain=None, means=None, held=None, config=None):
    plain = plain or answers()
    ways = [
        Way("bn", "batch norm", plain, plain, held=held),
        Way("means", "fitted means", means or plain, plain),
    ]
    return advice(ways, method_rows(ways), config or SbnConfig(), BENCH)


def test_nothing_to_say_says_nothing():
    assert warned() == []


def test_an_original_near_chance_is_questioned():
    (line,) = warned(plain=answers(0.1))
    assert "near chance" in line
    assert "--normalize" in line


def test_fitted_means_that_move_the_loss_are_a_shift():
    (line,) = warned(means=answers(scale=0.4))
    assert line.startswith("The fitted means alone move NLL by +0.")
    assert "re-estimation" in line
    (line,) = warned(plain=answers(scale=0.4), means=answers())
    assert line.startswith("The fitted means alone move NLL by -0.")


def test_a_move_that_is_small_or_uncertain_is_none():
    assert warned(means=answers(scale=0.98)) == []
    # far off on average, by a few inputs only
    plain = answers()
    wild = plain.log_probs.clone()
    wild[0] = F.log_softmax(torch.where(torch.arange(CLASSES) == LABELS[0], -9.0, 0.0).double(), 0)
    assert warned(plain=plain, means=Answers(wild, LABELS)) == []


def test_one_sample_is_advised_against():
    (line,) = warned(config=SbnConfig(samples=1))
    assert line.startswith("K = 1")
    assert "--samples 10" in line


def test_a_calibration_set_known_by_heart_is_pointed_out():
    config = SbnConfig(calibration_split="train:0.1")
    (line,) = warned(plain=answers(1.5), held=answers(9.0), config=config)
    assert line.startswith("The calibration set looks memorised: 0.0 % error on it and ")
    assert "--calibration-split cross" in line


def test_a_calibration_set_as_hard_as_the_test_is_not():
    config = SbnConfig(calibration_split="train:0.1")
    assert warned(held=answers(), config=config) == []
    assert warned(held=answers(9.0), config=replace(config, calibration_split="test:0.2")) == []


# --- batch size of the training --------------------------------------------------------------


def written(folder, **body):
    (folder / "report.json").write_text(json.dumps(body))
    return folder


def test_the_batch_size_is_read_off_the_report_of_a_run(tmp_path):
    written(tmp_path, command="train", method={"config": {"batch_size": 64}})
    assert trained_batch_size(str(tmp_path)) == 64
    assert trained_batch_size(str(tmp_path / "model.safetensors")) == 64
    written(tmp_path, command="prune", method={"config": {"train": {"batch_size": 48}}})
    assert trained_batch_size(str(tmp_path)) == 48


@pytest.mark.parametrize(
    "body",
    [
        {"command": "sbn-fit", "method": {"config": {"batch_size": 32}}},
        {"command": "train", "method": {"config": {"batch_size": "64"}}},
        {"command": "train", "method": {"config": {"batch_size": 1}}},
        {"command": "train", "method": {"config": {"batch_size": None}}},
        {"command": "train", "method": {"config": 3}},
        {"command": "train", "method": []},
        {"command": "train"},
        [],
        3,
        None,
    ],
)
def test_what_tells_no_batch_size_is_passed_over(body, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(body))
    assert trained_batch_size(str(tmp_path)) is None


def test_files_that_are_no_run_are_passed_over(tmp_path):
    assert trained_batch_size(None) is None
    assert trained_batch_size(str(tmp_path / "net.pt")) is None
    (tmp_path / "report.json").write_bytes(b"\xff\xfe{")
    assert trained_batch_size(str(tmp_path)) is None
