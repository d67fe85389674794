"""The decision that a measured speedup leads to; timing is imitated, decisions are counts."""

from types import SimpleNamespace

import pytest
import torch

from bnnkit.errors import UsageError
from bnnkit.run.progress import SilentProgress
from bnnkit.run.pruning import speed
from bnnkit.spec.prune import PruneConfig, Target

FULL = 10.0


def aimed(monkeypatch, wanted, found, least=0.0):
    """Return what is decided, what was asked for and told, for these measurements in turn."""
    config = PruneConfig(target=Target(speedup=wanted))
    job = SimpleNamespace(config=config, progress=SilentProgress(), notes=[])
    measured, asked = iter(found), []
    monkeypatch.setattr(speed, "_measured", lambda job, slim: next(measured))

    def close(limit):
        if limit < least:
            raise UsageError("Reaching it")
        asked.append(limit)
        return torch.tensor(len(asked))

    goal = SimpleNamespace(limit=FULL / wanted)
    return int(speed.fast_enough(job, goal, close, lambda keep: keep)), asked, job.notes


def test_the_first_decision_that_is_fast_enough_is_taken(monkeypatch):
    decided, asked, notes = aimed(monkeypatch, 2.0, [1.6, 2.1])
    assert decided == 2
    assert asked == pytest.approx([5.0, 5.0 * 1.6 / (2.0 * 1.02)])
    assert notes == []


def test_after_the_last_try_the_fastest_that_was_measured_is_taken(monkeypatch):
    decided, asked, (note,) = aimed(monkeypatch, 2.0, [1.2, 1.8, 1.5, 1.4])
    assert decided == 2
    assert len(asked) == 4  # each that was decided was measured
    assert "measured 1.80 times as fast, not 2 times: the fastest of 4 tries" in note


def test_where_no_more_can_go_it_is_told(monkeypatch):
    decided, asked, (note,) = aimed(monkeypatch, 2.0, [1.5, 1.3], least=3.5)
    assert decided == 1
    assert len(asked) == 2
    assert "measured 1.50 times as fast, not 2 times: no more can be removed" in note


def test_a_goal_out_of_reach_from_the_start_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="Reaching it"):
        aimed(monkeypatch, 2.0, [], least=6.0)
