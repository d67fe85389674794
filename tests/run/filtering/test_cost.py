"""The stopwatch of a run: each second is charged once."""

import time

import pytest

from bnnkit.run.filtering.cost import Stopwatch
from bnnkit.run.reporting import filter_digest


def spin(seconds):
    """Use CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_each_second_is_charged_to_the_inner_phase():
    begun, clock = time.process_time(), Stopwatch()
    with clock.phase("train"):
        spin(0.1)
        with clock.phase("trace"):
            spin(0.2)
        spin(0.1)
    spin(0.05)
    with clock.phase("train"):
        spin(0.1)
    found, used = clock.section(), time.process_time() - begun
    spent = {name: row["cpu"] for name, row in found["phases"].items()}
    assert spent["train"] == pytest.approx(0.3, abs=0.02)
    assert spent["trace"] == pytest.approx(0.2, abs=0.02)
    assert spent["other"] == pytest.approx(0.05, abs=0.02)
    assert sum(spent.values()) == pytest.approx(found["cpu"])
    assert found["cpu"] == pytest.approx(used, abs=0.01)
    assert clock.cpu("train") == spent["train"]
    assert clock.cpu("never") == 0


def test_waiting_is_wall_time_and_no_cpu_time():
    clock = Stopwatch()
    with clock.phase("wait"):
        time.sleep(0.2)
    row = clock.section()["phases"]["wait"]
    assert row["wall"] >= 0.2
    assert row["cpu"] < 0.1


def test_a_phase_that_fails_is_closed():
    clock = Stopwatch()

    def fail():
        with clock.phase("open"):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    spin(0.05)
    assert clock.section()["phases"]["other"]["cpu"] >= 0.05


def test_the_printed_summary_has_one_line_of_it():
    body = {"command": "mh-filter", "cost": {"cpu": 61.24, "wall": 64.5, "phases": {}}}
    table = filter_digest.chain_table(body, bounded=True)
    assert table.rows == (("the whole command", "61.2 s of CPU time in 64.5 s", ""),)
    for junk in (None, {}, {"cpu": "a"}, [], {"cpu": 1}):
        table = filter_digest.chain_table({**body, "cost": junk}, bounded=True)
        assert table is None or not table.rows
