import gc
import time
from functools import partial

import pytest
import torch
from torch import nn

from bnnkit.io.export import write_onnx
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.latency.section import latency_table
from bnnkit.run.latency.timing import Timing, speedup, time_interleaved


def waits(ms):
    return lambda: time.sleep(ms / 1000)


def test_durations_and_their_ratio_are_found():
    quick = {"min_rounds": 20, "min_seconds": 0.0, "warmup": 1}
    timings = time_interleaved({"slow": waits(6), "fast": waits(3)}, **quick)
    assert timings["slow"].median == pytest.approx(6, rel=0.25)
    assert timings["fast"].median == pytest.approx(3, rel=0.25)
    assert len(timings["slow"].samples) == len(timings["fast"].samples) == 20
    ratio = speedup(timings["slow"], timings["fast"])
    assert ratio.unit == "x"
    assert ratio.n == 20
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.low > 1.5
    assert ratio.high < 2.5


def test_every_round_calls_every_candidate_in_seeded_random_order():
    def order(seed):
        seen = []
        calls = {name: lambda name=name: (seen.append(name), time.sleep(0.003)) for name in "abc"}
        generator = torch.Generator().manual_seed(seed)
        time_interleaved(
            calls, min_rounds=10, min_seconds=0, max_seconds=9, warmup=1, generator=generator
        )
        return seen[3:]

    first = order(1)
    rounds = [first[i : i + 3] for i in range(0, len(first), 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert order(1) == first
    assert order(2) != first


def test_quick_calls_are_repeated_until_the_clock_can_see_them():
    count = 0

    def call():
        nonlocal count
        count += 1

    timing = time_interleaved({"a": call}, min_rounds=5, min_seconds=0)["a"]
    assert timing.repeats > 100
    assert count >= 5 * timing.repeats
    assert timing.median < 0.01


def test_the_time_budget_ends_a_slow_row():
    start = time.perf_counter()
    timing = time_interleaved({"a": waits(100)}, min_rounds=50, max_seconds=0.3)["a"]
    assert time.perf_counter() - start < 2
    assert 3 <= len(timing.samples) < 10


def test_median_and_spread_are_numpys_and_the_interval_covers():
    import numpy as np

    samples = np.random.default_rng(0).lognormal(size=101)
    timing = Timing(tuple(samples), 1)
    low, high = np.quantile(samples, [0.25, 0.75])
    assert timing.median == pytest.approx(np.median(samples))
    assert timing.spread == pytest.approx(high - low)
    figure = timing.latency()
    assert (figure.unit, figure.n) == ("ms", 101)
    assert figure.low < figure.value < figure.high


def test_pairing_cancels_what_slows_a_whole_round():
    generator = torch.Generator().manual_seed(0)
    weather = torch.rand(200, generator=generator) * 10 + 1
    shuffled = weather[torch.randperm(200, generator=generator)]
    paired = speedup(Timing(tuple(2 * weather), 1), Timing(tuple(weather), 1))
    unpaired = speedup(Timing(tuple(2 * shuffled), 1), Timing(tuple(weather), 1))
    assert paired.low == pytest.approx(2)
    assert paired.high == pytest.approx(2)
    assert unpaired.high - unpaired.low > 0.1


def test_the_garbage_collector_is_as_before():
    gc.disable()
    try:
        time_interleaved({"a": waits(1)}, min_rounds=1, min_seconds=0)
        assert not gc.isenabled()
    finally:
        gc.enable()
    time_interleaved({"a": waits(1)}, min_rounds=1, min_seconds=0)
    assert gc.isenabled()


def test_the_table_has_a_row_for_each_runtime_batch_and_thread_count(tmp_path):
    torch.manual_seed(0)
    wide, slim = (nn.Sequential(nn.Linear(64, w), nn.Linear(w, 2)) for w in (4096, 16))
    paths = {
        name: write_onnx(net, torch.randn(2, 64), tmp_path / f"{name}.onnx").path
        for name, net in (("original", wide), ("slim", slim))
    }
    before = torch.get_num_threads()
    seen = []

    def opener(net, threads):
        seen.append((threads, torch.get_num_threads()))
        return open_predictor(net, threads=threads)

    rows = latency_table(
        {
            "torch": {"original": partial(opener, wide), "slim": partial(opener, slim)},
            "onnxruntime": {n: partial(open_predictor, p) for n, p in paths.items()},
        },
        (64,),
        (1, 32),
        (1, 2),
        seconds=0.2,
    )
    assert torch.get_num_threads() == before
    assert seen == [(1, 1), (1, 1), (2, 2), (2, 2)]
    keys = {(r["runtime"], r["threads"], r["batch"]) for r in rows}
    runtimes = ("torch", "onnxruntime")
    assert keys == {(r, t, b) for r in runtimes for t in (1, 2) for b in (1, 32)}
    assert len(rows) == 8
    for row in rows:
        assert row["device"] == "cpu"
        assert [m["name"] for m in row["models"]] == ["original", "slim"]
        first, second = row["models"]
        assert first["speedup"].value == 1
        assert first["latency"].unit == "ms"
        assert second["speedup"].unit == "x"
    # 4096 against 16 hidden units at 32 inputs, one thread: no machine gets that wrong
    row = next(r for r in rows if (r["runtime"], r["threads"], r["batch"]) == ("torch", 1, 32))
    assert row["models"][1]["speedup"].low > 1
