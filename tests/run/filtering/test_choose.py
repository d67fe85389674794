"""The temperature: the best of a grid, which goes on beyond an edge that is best."""

import math
from types import SimpleNamespace

import pytest
import torch

from bnnkit.errors import TrainingError
from bnnkit.run.filtering import choose as mh_choose
from bnnkit.run.filtering.choose import TEMPERATURES, choose
from bnnkit.run.filtering.discriminate import Candidate
from bnnkit.run.filtering.reals import Reals
from bnnkit.run.progress import SilentProgress
from bnnkit.spec.mh import MhConfig


def way(name):
    scores = torch.linspace(-1, 1, 40).double()
    return Candidate(name, torch.nn.Identity(), scores, scores, scores)


def run(monkeypatch, best, *, names=("a",), config=None, moves=lambda name, t: True):
    """Choose where the distance is smallest at a temperature for each candidate."""

    def judged(job, way, wrapped, bank, seen, reference):
        t = None if wrapped.knots is not None else wrapped.temperature
        row = {"name": way.name, "chosen": False, "temperature": t, "distances": {}}
        far = abs(math.log((t or 1.0) / best[way.name])) + 0.1 * names.index(way.name)
        return row | {"score": far if moves(way.name, t) else None}

    monkeypatch.setattr(mh_choose, "_judge", judged)
    monkeypatch.setattr(mh_choose, "see_reference", lambda judges, images: None)
    held = Reals(torch.zeros(40), torch.zeros(40))
    job = SimpleNamespace(
        config=config or MhConfig(), progress=SilentProgress(), notes=[], judges=[], held=held
    )
    return job, choose(job, [way(name) for name in names], None, None)


def test_a_temperature_inside_the_grid_is_taken_as_it_is(monkeypatch):
    job, chosen = run(monkeypatch, {"a": 0.91})
    assert chosen.temperature == 0.9
    assert [row["temperature"] for row in chosen.rows] == list(TEMPERATURES)
    assert [row["temperature"] for row in chosen.rows if row["chosen"]] == [0.9]
    assert job.notes == []
    assert torch.allclose(chosen.bank, torch.linspace(-1, 1, 40).double() / 0.9)


@pytest.mark.parametrize(("best", "found"), [(0.69, 0.675), (1.66, 1.68)])
def test_the_grid_goes_on_beyond_its_edge(monkeypatch, best, found):
    job, chosen = run(monkeypatch, {"a": best})
    assert chosen.temperature == pytest.approx(found)
    assert len(chosen.rows) == len(TEMPERATURES) + 2  # one that was better, and one that was not
    assert job.notes == []


@pytest.mark.parametrize(
    ("best", "last", "words"),
    [
        (0.05, 0.75 * 0.9**3, "is the lowest that was tried: held-out images asked for a still"),
        (9.0, 1.4 * 1.2**3, "is the highest that was tried: held-out images asked for a still"),
    ],
)
def test_an_edge_that_is_chosen_all_the_same_is_told(monkeypatch, best, last, words):
    job, chosen = run(monkeypatch, {"a": best})
    assert chosen.temperature == pytest.approx(last)
    (note,) = job.notes
    assert f"The chosen temperature, {last:.2g}, {words}" in note
    assert "--temperature" in note


def test_only_the_best_candidate_is_tried_further(monkeypatch):
    _, chosen = run(monkeypatch, {"a": 0.69, "b": 0.3}, names=("a", "b"))
    assert chosen.name == "a"
    assert [row["name"] for row in chosen.rows].count("b") == len(TEMPERATURES)


def test_what_does_not_move_is_no_choice(monkeypatch):
    job, chosen = run(monkeypatch, {"a": 0.05}, moves=lambda name, t: t >= 0.9)
    assert chosen.temperature == 0.9  # sharper ones were tried, and no chain moved under them
    assert job.notes == []
    with pytest.raises(TrainingError, match="6 candidates, under none of which chains move"):
        run(monkeypatch, {"a": 0.05}, moves=lambda name, t: False)


@pytest.mark.parametrize("more", [{"temperature": 2.0}, {"calibrate": "none"}])
def test_a_temperature_of_the_users_is_not_looked_beyond(monkeypatch, more):
    job, chosen = run(monkeypatch, {"a": 0.05}, config=MhConfig(**more))
    assert chosen.temperature == more.get("temperature", 1.0)
    assert len(chosen.rows) == 1
    assert job.notes == []


def test_an_encoder_run_says_nothing_of_the_rivals_temperature(monkeypatch):
    job, _ = run(monkeypatch, {"a": 0.05}, config=MhConfig(proposal="encoder"))
    assert job.notes == []
