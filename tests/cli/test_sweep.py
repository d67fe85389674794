"""`bnnkit sweep` on the command line: its options, exit codes, and interruption."""

from __future__ import annotations

import json

import pytest
import torch

from bnnkit.cli.errors import main
from bnnkit.io.architectures import build_architecture
from bnnkit.run import sweep as module
from bnnkit.spec import Report
from bnnkit.spec.prune import PruneConfig, Target

QUICK = ["--arch", "bnnkit:digits-cnn", "--data", "digits", "--limit", "100", "--epochs", "2",
         "--bench-batch", "1", "--no-onnx", "--no-pt2", "--threads", "1"]  # fmt: skip


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(build_architecture("bnnkit:digits-cnn", {}, seed=0).state_dict(), path)
    return str(path)


@pytest.fixture
def asked(monkeypatch):
    """Catch what the library is asked for."""
    found = {}

    def sweep(model, data, config, **more):
        found.update(model=model, data=data, config=config, **more)
        return Report("sweep", {}, {"out": "o", "sweep": {"rows": [], "cells": []}})

    monkeypatch.setattr(module, "sweep", sweep)
    return found


def test_the_defaults_are_those_of_prune(asked, capsys):
    assert main(["sweep", "net.pt", "--data", "digits"]) == 0
    assert asked["config"].base == PruneConfig()
    assert asked["config"].methods == ("sbp",)
    assert asked["config"].seeds == (0, 1, 2)
    assert asked["data"].split_seed == 0  # one test part for all seeds
    assert capsys.readouterr().out.endswith("Sweep: o\n")


def test_lists_become_cells(asked):
    args = ["--methods", "sbp,magnitude", "--target-macs", "0.5,.33", "--target-size", "1MB,5 kB",
            "--target-speedup", "1.5", "--max-error-rise", "0.5", "--seeds", "4,5",
            "--cost", "params", "--distill", "0.9", "--finetune-epochs", "1", "--epochs", "4",
            "--exclude", "conv1", "--round-to", "8", "--bench-threads", "1,2"]  # fmt: skip
    assert main(["sweep", "net.pt", "--data", "digits", *args]) == 0
    config = asked["config"]
    assert config.targets() == (
        Target(macs=0.5), Target(macs=0.33), Target(size=10**6), Target(size=5000),
        Target(speedup=1.5), Target(error_rise=0.5),
    )  # fmt: skip
    assert (config.methods, config.seeds) == (("sbp", "magnitude"), (4, 5))
    base = config.base
    assert (base.cost, base.exclude, base.round_to, base.threads) == (
        "params",
        ("conv1",),
        8,
        (1, 2),
    )
    assert (base.recovery.distill, base.recovery.finetune) == (0.9, 0.25)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no --data"),
        ([*QUICK, "--methods", "spb"], "Did you mean 'sbp'?"),
        ([*QUICK, "--methods", "magnitude"], "without a target"),
        ([*QUICK, "--target-macs", "0.5,x"], "Use --target-macs 0.5,0.33"),
        ([*QUICK, "--target-macs", "2"], "between 0 and 1"),
        ([*QUICK, "--target-size", "5 apples"], "bytes with a unit"),
        ([*QUICK, "--seeds", "0,"], "Use --seeds 0,1,2"),
        ([*QUICK, "--finetune", "1"], "no epoch is left"),
    ],
)
def test_refusals_are_one_message_and_exit_2(args, words, net, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", net, *args]) == 2
    printed = capsys.readouterr()
    assert words in " ".join(printed.err.split())
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_where_no_target_can_be_reached_the_table_says_why(net, tmp_path, capsys):
    args = [*QUICK, "--target-size", "900B", "--seeds", "0,1", "--out", str(tmp_path / "s")]
    assert main(["sweep", net, *args]) == 2
    printed = capsys.readouterr()
    assert "0 of 2" in printed.out
    assert "sbp-size900-s0, sbp-size900-s1  failed  Reaching 900 bytes" in printed.out
    assert "cell 2 of 2, sbp-size900-s1" in printed.err
    assert main(["sweep", net, *args, "--json"]) == 2
    body = json.loads(capsys.readouterr().out)
    assert [cell["code"] for cell in body["sweep"]["cells"]] == [2, 2]


def test_an_interruption_says_how_to_go_on(net, tmp_path, capsys, monkeypatch):
    def prune(*args, **more):
        raise KeyboardInterrupt("Stopped.")

    monkeypatch.setattr(module, "prune", prune)
    assert main(["sweep", net, *QUICK, "--out", str(tmp_path / "s")]) == 130
    err = capsys.readouterr().err
    assert "Stopped in cell 1 of 3, sbp-evidence-s0. Go on with the same command" in err


def test_gate_names_a_cell(tmp_path, capsys):
    cells = [{"name": "a-s0", "status": "failed"}, {"name": "a-s1", "status": "done"}]
    report = Report("sweep", {}, {"out": "o", "sweep": {"cells": cells}})
    (tmp_path / "report.json").write_text(report.to_json())
    assert main(["gate", str(tmp_path), "--max-error-rise", "1"]) == 2
    err = capsys.readouterr().err
    assert "a gate judges one model" in err
    assert "o/cells/a-s1" in err
