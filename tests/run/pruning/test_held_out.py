"""What decides about an error budget: all of it, and nothing that is tested or trained on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bnnkit.errors import DataError, UsageError
from bnnkit.io.data import load_data
from bnnkit.run.progress import SilentProgress
from bnnkit.run.pruning.held_out import hold_out
from bnnkit.spec import DataSpec
from bnnkit.spec.prune import PruneConfig, Target


@pytest.fixture(scope="module")
def digits():
    """The digits as 8-bit images in random order, and their labels."""
    data = load_data(DataSpec("digits"))
    whole = data.whole
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))
    x = (whole.part.images.pixels[order] * 255).round().to(torch.uint8).numpy()
    return x, whole.labels[order].numpy()


@pytest.fixture
def named(digits, tmp_path):
    """Return a function that writes rows of the digits to a file and gives its name."""

    def write(name, rows, test=None):
        (x, y), path = digits, tmp_path / f"{name}.npz"
        if test is None:
            np.savez(path, x=x[rows], y=y[rows])
        else:
            np.savez(path, x_train=x[rows], y_train=y[rows], x_test=x[test], y_test=y[test])
        return str(path)

    return write


def job(data, val):
    """Return what of a run says which examples decide; no model is needed for that."""
    spec = data if isinstance(data, DataSpec) else DataSpec(data)
    bench = SimpleNamespace(data=load_data(replace(spec, input_shape=(1, 8, 8))))
    config = PruneConfig(target=Target(error_rise=3.0), val=val)
    return SimpleNamespace(bench=bench, data=spec, config=config, progress=SilentProgress())


def test_all_of_data_without_a_test_part_decide(named):
    own = named("own", slice(0, 1400))
    run = job(own, named("fresh", slice(1400, None)))
    found = hold_out(run)
    assert len(found.held) == 397
    assert found.train is run.bench.data.train
    assert found.origin == "fresh, all of it"
    assert not found.known


def test_a_test_part_of_its_own_decides_alone(named):
    own = named("own", slice(0, 1200))
    found = hold_out(job(own, named("fresh", slice(1200, 1400), slice(1400, None))))
    assert len(found.held) == 397
    assert found.origin == "the test part of fresh"


def test_a_limit_holds_for_what_decides_as_well(named):
    own = DataSpec(named("own", slice(0, 1400)), limit=300)
    found = hold_out(job(own, named("fresh", slice(1400, None))))
    assert len(found.held) == 300
    assert found.origin == "a random subset of fresh, all of it"


@pytest.mark.parametrize("name", ["digits", "Digits"])
def test_the_data_of_the_run_itself_are_refused(name):
    with pytest.raises(UsageError, match=r"20% of its 1797 examples are in the test part of dig"):
        hold_out(job("digits", name))


def test_the_test_part_is_recognised_in_another_file_of_floats(named, digits, tmp_path):
    own = named("own", slice(0, 1400), slice(1400, None))
    x, y = digits
    np.savez(tmp_path / "copy.npz", x=x[1300:].astype(np.float32) / 255, y=y[1300:])
    with pytest.raises(UsageError, match="80% of its 497 examples are in the test part of own"):
        hold_out(job(own, str(tmp_path / "copy.npz")))


def test_what_is_trained_on_is_refused_with_the_way_out(named):
    own = named("own", slice(0, 1000), slice(1000, 1400))
    with pytest.raises(UsageError, match="20% of its 497 examples are in the training") as caught:
        hold_out(job(own, named("near", np.r_[900:1000, 1400:1797])))
    assert "--val 0.1, which sets a share of the training part aside" in caught.value.hint


def test_a_few_that_are_the_same_by_chance_pass(named):
    own = named("own", slice(0, 1000), slice(1000, 1400))
    assert len(hold_out(job(own, named("near", np.r_[998:1001, 1400:1797]))).held) == 400
    with pytest.raises(UsageError, match="1% of its 402 examples"):
        hold_out(job(own, named("near", np.r_[995:1000, 1400:1797])))


def test_data_of_another_shape_are_refused(tmp_path):
    x = np.random.default_rng(0).random((300, 3, 8, 8), np.float32)
    np.savez(tmp_path / "rgb.npz", x=x, y=np.arange(300) % 10)
    with pytest.raises(DataError, match="3x8x8"):
        hold_out(job("digits", str(tmp_path / "rgb.npz")))


def test_a_share_is_still_a_share():
    found = hold_out(job(replace(DataSpec("digits"), limit=1000), "0.5"))
    assert len(found.held) == pytest.approx(500, abs=10)
    assert found.known
