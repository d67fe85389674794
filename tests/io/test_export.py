import json

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import nn

from bnnkit.errors import ArtefactError, FileRefusedError
from bnnkit.io import export
from bnnkit.spec import ModelSpec, Plan


class Net(nn.Module):
    """Conv, batch norm, and an answer of the wanted form."""

    def __init__(self, wrap=lambda x: x):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.fc(self.bn(self.conv(x)).relu().mean((2, 3))))


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1) * 2.0


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def net(**kwargs):
    torch.manual_seed(0)
    model = Net(**kwargs)
    model.bn.running_mean.normal_()
    return model


def expected(model, x):
    flags = model.training
    out = model.eval()(x).detach()
    model.train(flags)
    return out


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


@pytest.mark.parametrize("rows", [1, 2])
def test_onnx_runs_at_any_batch_and_the_module_is_as_before(tmp_path, capfd, rows):
    model = net().train()
    model.bn.eval()
    written = export.write_onnx(model, torch.randn(rows, 3, 8, 8), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert [m.training for m in (model, model.conv, model.bn)] == [True, True, False]
    assert written.notes == ()
    assert written.bytes == written.path.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(run_onnx(written.path, x), expected(model, x), **CLOSE)
    graph = onnx.load(written.path)
    onnx.checker.check_model(graph, full_check=True)
    assert [o.version for o in graph.opset_import if not o.domain] == [export.OPSET]
    assert str(tmp_path.anchor + "home") not in str(graph)
    assert "stack_trace" not in str(graph)


CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("wrap", [lambda y: {"out": y, "aux": y + 1}, lambda y: (y, y + 1)])
def test_only_the_main_output_is_exported_under_the_owners_names(tmp_path, wrap):
    model, plain = net(wrap=wrap), net()
    x = torch.randn(3, 3, 8, 8)
    export.write_onnx(model, x, tmp_path / "m.onnx")
    assert [o.name for o in onnx.load(tmp_path / "m.onnx").graph.output] == ["output"]
    torch.testing.assert_close(run_onnx(tmp_path / "m.onnx", x), expected(plain, x), **CLOSE)
    export.write_pt2(model, x, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2")
    assert set(program.state_dict) == set(model.state_dict())
    torch.testing.assert_close(program.module()(x), expected(plain, x), **CLOSE)
    assert isinstance(model(x), dict | tuple)  # the hook is gone


def test_pt2_runs_at_any_batch_and_names_no_source_file(tmp_path, capfd):
    model = net().train()
    written = export.write_pt2(model, torch.randn(1, 3, 8, 8), tmp_path / "m.pt2")
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert written.notes == ()
    module = torch.export.load(written.path).module()
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(module(x), expected(model, x), **CLOSE)
    assert b"site-packages" not in written.path.read_bytes()


@pytest.mark.parametrize(
    ("write", "name"), [(export.write_onnx, "m.onnx"), (export.write_pt2, "m.pt2")]
)
def test_a_batch_that_cannot_vary_is_kept_fixed_and_told(tmp_path, write, name):
    written = write(Fixed(), torch.randn(2, 6), tmp_path / name)
    assert len(written.notes) == 1
    assert "fixed at 2" in written.notes[0]


@pytest.mark.parametrize(
    ("write", "name"), [(export.write_onnx, "m.onnx"), (export.write_pt2, "m.pt2")]
)
def test_a_model_that_cannot_be_captured_is_refused_in_one_line(tmp_path, write, name, capfd):
    with pytest.raises(ArtefactError, match="data-dependent") as caught:
        write(Branching(), torch.randn(2, 6), tmp_path / name)
    assert "--no-" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_model_beyond_two_gigabytes_is_refused_before_the_work(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(24000, 24000)
    with pytest.raises(ArtefactError, match=r"2\.15 GiB"):
        export.write_onnx(model, torch.randn(2, 24000), tmp_path / "m.onnx")


def test_safetensors_holds_every_tensor_and_the_plan(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight  # tied
    model.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    plan = Plan(ModelSpec(arch="bnnkit:lenet5"))
    written = export.write_safetensors(model, tmp_path / "m.safetensors", plan)
    with safe_open(written.path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["format"] == "pt"
    assert Plan.from_json(metadata["bnnkit.plan"]) == plan
    assert tensors.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(tensors[name], value)
    assert len(written.notes) == 1
    assert "'1.weight' shares" in written.notes[0]


def test_tensors_that_safetensors_cannot_hold_are_refused(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(ArtefactError, match="safetensors"):
        export.write_safetensors(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret.bin", ""])
def test_onnx_weights_outside_of_the_folder_are_refused(tmp_path, place):
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=place)
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["output"])],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("output", 1, [4])],
        [tensor],
    )
    (folder / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(FileRefusedError, match="own folder"):
        export.check_onnx(folder / "m.onnx")


def test_metadata_of_a_module_without_a_plan_is_plain(tmp_path):
    written = export.write_safetensors(nn.Linear(2, 2), tmp_path / "m.safetensors")
    with open(written.path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt"}
