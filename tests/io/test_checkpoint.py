"""Tensors out of every kind of file, against what torch's own loader gives for the same bytes."""

import argparse
import collections
import datetime
import io
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bnnkit.errors import FileRefusedError, StructureError, UsageError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.spec import ModelSpec, Plan

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "checkpoints"
LEGACY = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()


def save(value, path, legacy=False, **options):
    torch.save(value, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def assert_equal(tensors, reference):
    assert list(tensors) == list(reference)
    for name, value in reference.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value), name
        assert tensors[name].is_contiguous()
        assert tensors[name].device.type == "cpu"


@LEGACY
def test_a_state_dict_is_read_as_torch_reads_it(tmp_path, legacy):
    path = save(net().state_dict(), tmp_path / "a.pt", legacy)
    checkpoint = read_checkpoint(path)
    assert_equal(checkpoint.tensors, torch.load(path, weights_only=True))
    assert checkpoint.notes == []
    assert checkpoint.plan is None
    assert checkpoint.prefix == ""


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    path = save(net().state_dict(), tmp_path / "a.pt", pickle_protocol=protocol)
    assert_equal(read_checkpoint(path).tensors, net().state_dict())


@LEGACY
def test_dtypes_strides_shared_storages_and_empty_tensors(tmp_path, legacy):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "shared": base,
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "long": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "complex": torch.randn(2, dtype=torch.complex64),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1, 3).expand(2, 3),
    }
    checkpoint = read_checkpoint(save(state, tmp_path / "a.pt", legacy))
    assert_equal(checkpoint.tensors, {k: v.contiguous() for k, v in state.items()})
    checkpoint.tensors["shared"].zero_()  # nobody's memory but its own
    assert torch.equal(checkpoint.tensors["transposed"], base.t())


def test_new_dtypes_come_through_untyped_storages(tmp_path):
    state = {
        "a": torch.tensor(range(4), dtype=torch.uint16),
        "b": torch.ones(3).to(torch.float8_e4m3fn),
    }
    tensors = read_checkpoint(save(state, tmp_path / "a.pt")).tensors
    assert tensors["a"].dtype == torch.uint16
    assert tensors["a"].tolist() == [0, 1, 2, 3]
    assert tensors["b"].float().tolist() == [1, 1, 1]


@LEGACY
def test_tensors_saved_on_cuda_come_to_the_cpu(tmp_path, legacy, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = save(net().state_dict(), tmp_path / "a.pt", legacy)
    monkeypatch.undo()
    assert b"cuda:0" in path.read_bytes()
    checkpoint = read_checkpoint(path)
    assert_equal(checkpoint.tensors, net().state_dict())
    assert checkpoint.notes == []


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema", "odd"])
def test_one_set_of_weights_is_picked_and_named(tmp_path, key):
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 2, 3, 3)).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "optimizer": optimizer.state_dict(), key: model.state_dict()}
    checkpoint = read_checkpoint(save(saved, tmp_path / "a.pt"))
    assert_equal(checkpoint.tensors, model.state_dict())
    assert checkpoint.notes == [f"The weights are the entry '{key}' of a training checkpoint."]


def test_two_different_sets_ask_for_the_key(tmp_path):
    saved = {"model": net(0).state_dict(), "ema": {"state_dict": net(1).state_dict()}}
    path = save(saved, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"'model', 'ema\.state_dict'") as asked:
        read_checkpoint(path)
    assert "--state-key" in asked.value.hint
    chosen = read_checkpoint(path, state_key="ema.state_dict")
    assert_equal(chosen.tensors, net(1).state_dict())
    with pytest.raises(UsageError, match="Did you mean 'model'"):
        read_checkpoint(path, state_key="modle")


def test_two_equal_sets_are_one(tmp_path):
    saved = {"model": net().state_dict(), "best": net().state_dict()}
    assert_equal(read_checkpoint(save(saved, tmp_path / "a.pt")).tensors, net().state_dict())


def test_a_key_for_a_flat_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="one flat state_dict"):
        read_checkpoint(save(net().state_dict(), tmp_path / "a.pt"), state_key="model")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.model."])
def test_prefixes_that_all_names_share_are_stripped(tmp_path, prefix):
    state = {prefix + name: value for name, value in net().state_dict().items()}
    checkpoint = read_checkpoint(save(state, tmp_path / "a.pt"))
    assert_equal(checkpoint.tensors, net().state_dict())
    assert checkpoint.prefix == prefix
    assert checkpoint.notes == [f"The prefix '{prefix}' was stripped from every name."]
    mixed = {**state, "head.weight": torch.ones(1)}
    assert read_checkpoint(save(mixed, tmp_path / "b.pt")).prefix == ""


def test_an_averaged_model_loses_its_counter(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(net())
    checkpoint = read_checkpoint(save(averaged.state_dict(), tmp_path / "a.pt"))
    assert_equal(checkpoint.tensors, net().state_dict())
    assert any("n_averaged" in note for note in checkpoint.notes)


@LEGACY
def test_plain_python_values_beside_the_weights_are_quiet(tmp_path, legacy):
    saved = {
        "state_dict": net().state_dict(),
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("x")),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "when": datetime.datetime(2020, 1, 1),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[1]),
        "set": {1, 2},
        "version": torch.__version__,
        "dtype": torch.float16,
        "numpy rng": np.random.RandomState(0).get_state(),
        "bytes": b"abc",
    }
    checkpoint = read_checkpoint(save(saved, tmp_path / "a.pt", legacy))
    assert_equal(checkpoint.tensors, net().state_dict())
    assert len(checkpoint.notes) == 1


class Own(torch.nn.Module):
    """A user's module with a transient buffer, a shared child and a function for attribute."""

    def __init__(self):
        super().__init__()
        self.body = net()
        self.again = self.body[3]
        self.act = torch.nn.functional.relu
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("transient", torch.ones(2), persistent=False)
        self.register_parameter("nothing", None)


@pytest.fixture
def own_file(tmp_path):
    """Pickle a module whose class cannot be imported afterwards."""

    def write(legacy, wrap=lambda module: module):
        home = types.ModuleType("somebodys_research")
        home.Own = Own
        Own.__module__, before = "somebodys_research", Own.__module__
        sys.modules["somebodys_research"] = home
        try:
            module = Own()
            return save(wrap(module), tmp_path / "own.pt", legacy), module.state_dict()
        finally:
            del sys.modules["somebodys_research"]
            Own.__module__ = before

    return write


@LEGACY
def test_a_pickled_module_is_harvested_without_its_class(own_file, legacy):
    path, state = own_file(legacy)
    checkpoint = read_checkpoint(path, harvest=True)
    assert set(checkpoint.tensors) == set(state)
    assert "transient" not in checkpoint.tensors
    for name, value in state.items():
        assert torch.equal(checkpoint.tensors[name], value)
    assert "somebodys_research" not in sys.modules
    assert "without running" in checkpoint.notes[0]


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda m: {"epoch": 1, "model": m}])
def test_a_wrapped_module_is_harvested(own_file, wrap):
    path, state = own_file(False, wrap)
    assert set(read_checkpoint(path, harvest=True).tensors) == set(state)


@LEGACY
def test_a_pickled_module_without_architecture_is_refused_with_remedies(own_file, legacy):
    path, _ = own_file(legacy)
    with pytest.raises(FileRefusedError, match=r"'somebodys_research\.Own'") as refused:
        read_checkpoint(path)
    assert "--arch" in refused.value.hint
    assert "--trust-pickle" in refused.value.hint


@LEGACY
def test_a_trusted_module_comes_back_whole(tmp_path, legacy):
    path = save(net(), tmp_path / "a.pt", legacy)
    checkpoint = read_checkpoint(path, trust_pickle=True)
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(checkpoint.module(x), net()(x))
    assert_equal(checkpoint.tensors, net().state_dict())
    assert "torch.nn.modules.conv.Conv2d" in checkpoint.notes[0]


def test_a_trusted_module_whose_class_is_gone_is_refused_with_remedies(own_file):
    path, _ = own_file(False)
    with pytest.raises(FileRefusedError, match="somebodys_research") as refused:
        read_checkpoint(path, trust_pickle=True)
    assert "--arch" in refused.value.hint


def test_trust_runs_nothing_where_nothing_needs_to_run(tmp_path):
    checkpoint = read_checkpoint(save(net().state_dict(), tmp_path / "a.pt"), trust_pickle=True)
    assert checkpoint.notes == []
    assert checkpoint.module is None


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 2, 3, 3))]
)
def test_torchscript_gives_its_state_dict(tmp_path, make):
    torch.jit.save(make(net()), tmp_path / "a.pt")
    tensors = read_checkpoint(tmp_path / "a.pt").tensors
    reference = torch.jit.load(tmp_path / "a.pt").state_dict()
    assert set(tensors) == set(reference)
    assert all(torch.equal(tensors[k], reference[k]) for k in reference)


class Stateful(torch.nn.Module):
    """Its scripted form runs `__setstate__` when `torch.jit.load` opens it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.weight

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        assert bool(state[0].sum() > 1e9), "the code of the archive ran"
        self.weight = state[0]
        self.training = state[1]


def test_torchscript_code_does_not_run_when_its_weights_are_read(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.script(torch.nn.Sequential(Stateful(), torch.nn.Linear(2, 2))), path)
    with pytest.raises(Exception, match="the code of the archive ran"):
        torch.jit.load(path)
    assert {"1.weight", "1.bias"} <= set(read_checkpoint(path).tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pt2_gives_the_eager_state_dict(tmp_path, dtype):
    module = net().to(dtype)
    program = torch.export.export(module, (torch.ones(1, 2, 3, 3, dtype=dtype),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    (tmp_path / "a.pt2").write_bytes(buffer.getvalue())
    assert_equal(read_checkpoint(tmp_path / "a.pt2").tensors, program.state_dict)
    assert program.state_dict.keys() == module.state_dict().keys()


def test_safetensors_with_a_plan_and_a_run_directory(tmp_path):
    plan = Plan(ModelSpec(arch="bnnkit:lenet5"), slices={"a": {0: (0, 2)}})
    save_file(net().state_dict(), tmp_path / "model.safetensors", {"bnnkit.plan": plan.to_json()})
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.plan == plan
    assert set(checkpoint.tensors) == set(net().state_dict())
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert read_checkpoint(tmp_path).plan == plan
    save_file(net().state_dict(), tmp_path / "broken.safetensors", {"bnnkit.plan": "{}"})
    with pytest.raises(StructureError, match="not a bnnkit plan"):
        read_checkpoint(tmp_path / "broken.safetensors")


def test_onnx_cannot_be_operated_on(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(FileRefusedError, match="evaluated and timed, not operated on"):
        read_checkpoint(tmp_path / "m.onnx")


@LEGACY
@pytest.mark.parametrize("form", ["quantised", "sparse"])
def test_quantised_and_sparse_tensors_are_refused(tmp_path, form, legacy):
    value = torch.eye(3).to_sparse()
    if form == "quantised":
        value = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(FileRefusedError, match=f"the {form} tensor 'w'"):
        read_checkpoint(save({"w": value}, tmp_path / "a.pt", legacy))


def test_numbers_that_are_none_are_counted(tmp_path):
    bad = torch.ones(10)
    bad[3], bad[4] = float("nan"), float("inf")
    with pytest.raises(FileRefusedError, match="2 of 10 numbers of tensor 'b'"):
        read_checkpoint(save({"a": torch.ones(2), "b": bad}, tmp_path / "a.pt"))
    mask = torch.triu(torch.full((3, 3), float("-inf")), 1)  # a causal mask is no damage
    assert "mask" in read_checkpoint(save({"mask": mask}, tmp_path / "b.pt")).tensors


@pytest.mark.parametrize("value", [torch.ones(3), {"epoch": 1}, [1, 2], {}, None])
def test_files_without_named_weights_are_refused(tmp_path, value):
    with pytest.raises(FileRefusedError, match="tensor"):
        read_checkpoint(save(value, tmp_path / "a.pt"))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/checkpoints")
@pytest.mark.parametrize(
    "name", ["mnist-lenet.pth", "mnist-mlp-gan-G.ckpt", "mnist-mlp-gan-D.ckpt"]
)
def test_real_state_dicts(name):
    reference = torch.load(SHARED / name, map_location="cpu", weights_only=True)
    assert_equal(read_checkpoint(SHARED / name).tensors, reference)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/checkpoints")
def test_the_public_resnet20_and_its_fine_tuned_form():
    path = SHARED / "resnet20-12fca82f.th"
    checkpoint = read_checkpoint(path)
    reference = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert_equal(
        checkpoint.tensors, {k.removeprefix("module."): v.data for k, v in reference.items()}
    )
    assert len(checkpoint.notes) == 2
    tuned = read_checkpoint(SHARED / "resnet20-cifar10-jpeg.safetensors")
    assert set(checkpoint.tensors) <= set(tuned.tensors)
