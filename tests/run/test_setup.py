"""What the commands share before they start: report sections, and the plan of a run directory."""

import torch

from bnnkit.graph.analyse import analyse
from bnnkit.graph.rebuild import make_plan, make_slim
from bnnkit.io.export import write_safetensors
from bnnkit.io.models import load_model
from bnnkit.run.setup import describe_data, describe_model, plan_of, set_up
from bnnkit.spec import DataSpec, ModelSpec


def test_a_plan_that_removes_nothing_names_the_architecture_alone(tmp_path):
    first = load_model(ModelSpec(arch="bnnkit:digits-cnn"), seed=1)
    torch.save(first.module.state_dict(), tmp_path / "c.pt")
    loaded = load_model(ModelSpec(str(tmp_path / "c.pt"), arch="bnnkit:digits-cnn"))
    plan = plan_of(loaded, "mine")
    assert (plan.method, plan.model.arch, plan.model.file) == ("mine", "bnnkit:digits-cnn", None)
    path = write_safetensors(loaded.module, tmp_path / "w.safetensors", plan).path
    (tmp_path / "c.pt").unlink()
    again = load_model(ModelSpec(str(path))).module.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in first.module.state_dict().items())


def test_a_rewrite_that_a_file_carries_is_kept(tmp_path):
    loaded = load_model(ModelSpec(arch="bnnkit:digits-cnn"))
    structure = analyse(loaded.module, torch.zeros(2, 1, 8, 8))
    keep = torch.arange(structure.n_units) % 2 == 0
    theta = torch.ones(structure.n_units)
    slim = make_slim(loaded.module, structure, keep, theta, form="modules")
    plan = make_plan(structure, keep, theta, loaded.spec, form="modules", method="random")
    path = write_safetensors(slim, tmp_path / "s.safetensors", plan).path
    found = plan_of(load_model(ModelSpec(str(path))), "mine")
    assert found.method == "random"
    assert found.to_json() == plan.to_json()


def test_a_bench_describes_its_model_and_data():
    bench = set_up(ModelSpec(arch="bnnkit:digits-cnn"), DataSpec("digits"))
    assert bench.describe() == {
        "model": describe_model(bench.spec, bench.loaded.notes),
        "data": describe_data(bench.data),
    }
    data = describe_data(bench.data)
    assert data["n_train"] + data["n_test"] == 1797
    assert data["input_shape"] == [1, 8, 8]
