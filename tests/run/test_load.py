"""`bnnkit.load`: run directories, safetensors with a plan, checkpoints with an architecture."""

import pytest
import torch

import bnnkit
from bnnkit.errors import ArchitectureError, FileRefusedError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.rebuild import make_plan, make_slim
from bnnkit.io.export import write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.rundir import write_plan
from bnnkit.run.load import load
from bnnkit.spec import ModelSpec

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def original():
    return load_model(ModelSpec(arch="bnnkit:digits-cnn"), seed=3)


@pytest.fixture(scope="module")
def slim(original):
    """A slim model and its plan, made from a decision that keeps every second unit."""
    structure = analyse(original.module, torch.zeros(2, 1, 8, 8))
    keep = torch.arange(structure.n_units) % 2 == 0
    theta = torch.ones(structure.n_units)
    module = make_slim(original.module, structure, keep, theta, form="modules")
    plan = make_plan(structure, keep, theta, original.spec, form="modules", method="random")
    return module.eval(), plan


def answer(module):
    with torch.no_grad():
        return module(X)


def test_a_run_directory_loads_slim_and_in_eval_mode(slim, tmp_path):
    module, plan = slim
    write_safetensors(module, tmp_path / "model.safetensors", plan)
    write_plan(tmp_path, plan)
    loaded = load(tmp_path)
    assert not any(part.training for part in loaded.modules())
    assert loaded.conv1.out_channels == module.conv1.out_channels < 32
    assert torch.equal(answer(loaded), answer(module))


def test_safetensors_with_a_plan_need_nothing_else(slim, tmp_path):
    module, plan = slim
    path = write_safetensors(module, tmp_path / "elsewhere.safetensors", plan).path
    assert torch.equal(answer(bnnkit.load(path)), answer(module))


def test_a_checkpoint_takes_its_architecture(original, tmp_path):
    torch.save({"state_dict": original.module.state_dict()}, tmp_path / "c.pt")
    loaded = load(tmp_path / "c.pt", arch="bnnkit:digits-cnn")
    assert torch.equal(answer(loaded), answer(original.module.eval()))


def test_tensors_alone_are_refused_with_the_architecture_that_fits(tmp_path):
    module = load_model(ModelSpec(arch="bnnkit:resnet20-cifar")).module
    torch.save(module.state_dict(), tmp_path / "c.pt")
    with pytest.raises(ArchitectureError, match="--arch bnnkit:resnet20-cifar"):
        load(tmp_path / "c.pt")


def test_a_missing_file_is_one_sentence(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(FileRefusedError, match=r"no such file.*Did you mean 'model.pt'"):
        load(tmp_path / "modle.pt")
