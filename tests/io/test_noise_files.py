"""Batch-norm noise in files: it comes back bit by bit, is carried no further, and is vetted."""

import json

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import bnnkit
from bnnkit.errors import BnnkitError, FileRefusedError
from bnnkit.graph.compose import compose
from bnnkit.io.export import write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.runtimes import open_predictor
from bnnkit.io.sessions import NOISE_KEY
from bnnkit.methods import sbn
from bnnkit.run.uncertainty.stochastic import as_stochastic, noise_plan, write_onnx_with_noise
from bnnkit.spec import DataSpec, ModelSpec, Plan
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.noise import SAMPLERS

DIGITS = DataSpec("digits", limit=150)
CODE = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10),
    )
"""


def source(seed):
    return torch.Generator().manual_seed(seed)


def images(rows, seed=0):
    return torch.randn(rows, 1, 8, 8, generator=source(seed))


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Code of these tests is remembered in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def spec(home, tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "net.py"
    path.write_text(CODE)
    return ModelSpec(arch=f"{path}:net", input_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def loaded(spec):
    return load_model(spec, seed=1)


@pytest.fixture(scope="module")
def networks(loaded):
    """A stochastic net of each sampler, three samples an answer."""
    loader = [images(16, seed) * (1 + seed % 3) for seed in range(50)]
    return {
        name: sbn.fit(loaded.module, loader, sampler=name, batches=50, samples=3, rank=5,
                      temperature=0.8, seed=4)
        for name in SAMPLERS
    }  # fmt: skip


def planned(network, loaded, name="lowrank"):
    return Plan(loaded.spec, method="sbn", noise=noise_plan(network, name, 16, 50))


def write(path, network, plan, tensors=None):
    tensors = network.sampler.state_dict() if tensors is None else tensors
    write_safetensors(network.plain(), path, plan, tensors)
    return ModelSpec(file=str(path))


# --- safetensors ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_file_gives_the_net_and_its_noise_back_bit_by_bit(name, networks, loaded, tmp_path):
    network = networks[name]
    plan = planned(network, loaded, name)
    again = load_model(write(tmp_path / "m.safetensors", network, plan))
    before, after = loaded.module.state_dict(), again.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [type(m) for m in again.module.modules()] == [type(m) for m in loaded.module.modules()]
    assert again.noise.plan == plan.noise
    stored = network.sampler.state_dict()
    assert again.noise.tensors.keys() == stored.keys()
    assert all(torch.equal(again.noise.tensors[key], stored[key]) for key in stored)
    assert again.plan.noise is None  # what is made from this net has other statistics
    x = images(5, 9)
    answer = as_stochastic(again)
    torch.testing.assert_close(answer(x), network(x), rtol=0, atol=1e-6)
    assert torch.equal(answer(x), answer(x))


def test_a_file_without_noise_has_none(networks, loaded, tmp_path):
    write_safetensors(networks["lowrank"].plain(), tmp_path / "m.safetensors", Plan(loaded.spec))
    again = load_model(ModelSpec(file=str(tmp_path / "m.safetensors")))
    assert again.noise is None
    assert as_stochastic(again) is again.module


def test_the_names_of_noise_do_not_hide_weights(networks, loaded, tmp_path):
    names = set(load_file(write(tmp_path / "m.safetensors", networks["lowrank"],
                                planned(networks["lowrank"], loaded)).file))  # fmt: skip
    assert names == {
        *loaded.module.state_dict(),
        "bnnkit.noise.mean",
        "bnnkit.noise.factor",
        "bnnkit.noise.residual",
    }


def test_composing_drops_the_noise_of_the_first_plan(networks, loaded):
    first = planned(networks["lowrank"], loaded)
    assert compose(first, Plan(loaded.spec)).noise is None
    assert compose(None, first).noise == first.noise


def test_training_carries_no_noise_on(networks, loaded, tmp_path):
    network = networks["lowrank"]
    fitted = write(tmp_path / "m.safetensors", network, planned(network, loaded))
    report = bnnkit.train(fitted, DIGITS, TrainConfig(epochs=0, threads=1), out=tmp_path / "t")
    assert "noise of the file was taken off" in " ".join(report.sections["model"]["notes"])
    assert load_model(ModelSpec(file=str(tmp_path / "t"))).noise is None
    names = load_file(tmp_path / "t" / "model.safetensors")
    assert not [name for name in names if "noise" in name]


# --- what a stranger may write ------------------------------------------------------------------

HOSTILE = [
    ({"channels": [4, 7]}, {}, "statistics of 11 channels"),
    ({"channels": [6, 4]}, {}, "'1' with 6 channels; the net has 4 channels"),
    ({"channels": [4]}, {}, "2 sites, 1 widths"),
    ({"samples": 10**9}, {}, "1000000000 samples"),
    ({"samples": float("inf")}, {}, "infinity"),
    ({"sites": ["1", "9"]}, {}, "'9' with 6 channels; the net has no such layer"),
    ({"sites": ["1", "3"]}, {}, "'3' with 6 channels; the net has no such layer"),
    ({"sites": ["1", "4#2"]}, {}, "a forward pass goes through 1, 4"),
    (
        {"sites": ["1"], "channels": [4]},
        {"mean": 8, "factor": 8, "residual": 8},
        "a forward pass goes through 1, 4",
    ),
    ({"seed": 2**70}, {}, "this is no noise that bnnkit wrote"),
    ({"sampler": "factorised"}, {}, "KeyError: 'deviation'"),
    ({"sampler": "eval"}, {}, "sampler 'eval'"),
    ({}, {"factor": None}, "KeyError: 'factor'"),
    ({}, {"residual": None}, "KeyError: 'residual'"),
    ({}, {"mean": None, "factor": None}, "KeyError: 'mean'"),
    ({}, {"mean": torch.full((20,), torch.nan)}, "NaN or infinite"),
    ({}, {"mean": torch.full((20,), -torch.inf)}, "finite"),
    ({}, {"mean": torch.zeros(19)}, "statistics of 10 channels"),
    ({}, {"mean": torch.zeros(2, 20)}, "statistics of shape [2, 20]"),
    ({}, {"factor": torch.zeros(20)}, "it should hold the statistics of 10 channels"),
    ({}, {"mean": torch.zeros(20, dtype=torch.complex64)}, "statistics of 10 channels"),
    ({"sampler": "replay"}, {"draws": torch.zeros(0, 20)}, "IndexError"),
    ({"sampler": "replay"}, {"draws": torch.zeros(3, 21)}, "statistics of shape [1, 21]"),
    ({"samples": 10_000}, {"factor": torch.zeros(40_000, 20)}, "400200000 numbers of noise"),
]


@pytest.mark.parametrize(
    ("change", "tensors", "words"),
    HOSTILE,
    ids=[f"{i}-{h[2][:24]}" for i, h in enumerate(HOSTILE)],
)
def test_hostile_noise_is_refused_in_one_sentence(
    change, tensors, words, networks, loaded, tmp_path
):
    network = networks["lowrank"]
    body = json.loads(planned(network, loaded).to_json())
    body["noise"] |= change
    stored = dict(network.sampler.state_dict())
    for name, value in tensors.items():
        if isinstance(value, int):
            value = stored[name][..., :value].contiguous()
        stored[name] = value
    from safetensors.torch import save_file

    kept = {f"bnnkit.noise.{k}": v.clone() for k, v in stored.items() if v is not None}
    save_file({**network.plain().state_dict(), **kept}, tmp_path / "m.safetensors",
              metadata={"bnnkit.plan": json.dumps(body)})  # fmt: skip
    with pytest.raises(BnnkitError) as caught:
        bnnkit.load(tmp_path / "m.safetensors")
    said = str(caught.value)
    assert words in said
    assert len(said) < 500
    assert "\n" not in said


# --- ONNX -----------------------------------------------------------------------------------

OUTPUTS = ["probabilities", "entropy", "mutual_information", "expected_entropy"]


@pytest.fixture(scope="module")
def exported(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    written = write_onnx_with_noise(networks["lowrank"], images(2), path, "input")
    assert written.notes == ()
    return path


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_graph_names_its_inputs_and_outputs_and_leaves_batch_and_samples_open(exported):
    session = session_of(exported)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("input", ["batch", 1, 8, 8]), ("noise", ["samples", 25])
    ]  # fmt: skip
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("probabilities", ["batch", 10]), *((name, ["batch"]) for name in OUTPUTS[1:])
    ]  # fmt: skip
    onnx.checker.check_model(onnx.load(exported), full_check=True)


@pytest.mark.parametrize(("rows", "samples"), [(1, 1), (1, 7), (5, 1), (9, 4), (2, 2), (3, 30)])
def test_other_batches_samples_and_noise_agree_with_torch(exported, networks, rows, samples):
    x = images(rows, rows) * 2
    noise = torch.randn(samples, 25, generator=source(100 + samples))
    found = session_of(exported).run(OUTPUTS, {"input": x.numpy(), "noise": noise.numpy()})
    with torch.no_grad():
        expected = networks["lowrank"].predict(x, noise=noise)
    for name, values in zip(OUTPUTS, found, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(values), getattr(expected, name), rtol=0, atol=1e-5
        )


def test_the_recipe_in_the_file_gives_the_draws_of_torch(exported, networks):
    session, network, x = session_of(exported), networks["lowrank"], images(4, 3)
    recipe = json.loads(session.get_modelmeta().custom_metadata_map[NOISE_KEY])
    assert recipe == {"samples": 3, "size": 25, "seed": 4}
    noise = torch.randn(recipe["samples"], recipe["size"], generator=source(recipe["seed"]))
    assert torch.equal(noise, network.draws)
    (found,) = session.run(["probabilities"], {"input": x.numpy(), "noise": noise.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=0, atol=1e-5)
    opened = open_predictor(exported)
    assert torch.equal(opened(x), torch.from_numpy(found))
    assert torch.equal(opened(x), opened(x))


RECIPES = [
    {},
    {NOISE_KEY: "nonsense"},
    {NOISE_KEY: "[]"},
    {NOISE_KEY: "{}"},
    {NOISE_KEY: json.dumps({"samples": 1 << 40, "size": 5, "seed": 0})},
    {NOISE_KEY: json.dumps({"samples": -3, "size": -5, "seed": 0})},
    {NOISE_KEY: json.dumps({"samples": 0, "size": 5, "seed": 0})},
    {NOISE_KEY: json.dumps({"samples": 3, "size": 5, "seed": 2**70})},
    {NOISE_KEY: json.dumps({"samples": 1e999, "size": 5, "seed": 0})},
]


def strangers(path, recipe, second="noise"):
    """Write a model of somebody else that adds two inputs."""
    kind = onnx.TensorProto.FLOAT
    values = [
        onnx.helper.make_tensor_value_info(name, kind, ["rows", 5])
        for name in ("input", second, "output")
    ]
    add = onnx.helper.make_node("Add", ["input", second], ["output"])
    graph = onnx.helper.make_graph([add], "sum", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 20)]
    proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.helper.set_model_props(proto, recipe)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: str(list(r.values()))[:40])
def test_a_second_input_without_a_sound_recipe_is_refused(recipe, tmp_path):
    with pytest.raises(FileRefusedError, match="one input of numbers is needed"):
        open_predictor(strangers(tmp_path / "two.onnx", recipe))


def test_a_sound_recipe_is_for_the_input_called_noise(tmp_path):
    recipe = {NOISE_KEY: json.dumps({"samples": 3, "size": 5, "seed": 0})}
    with pytest.raises(FileRefusedError, match="input 'mask'"):
        open_predictor(strangers(tmp_path / "two.onnx", recipe, "mask"))
    noise = torch.randn(3, 5, generator=source(0))
    found = open_predictor(strangers(tmp_path / "ours.onnx", recipe))(torch.ones(3, 5))
    assert torch.equal(found, noise + 1)
