import contextlib
import io
import json
import pickle
import zipfile

import onnx
import pytest
import torch
from torch import nn

from bnnkit.errors import DataError, FileRefusedError, UsageError
from bnnkit.io.export import write_onnx, write_pt2, write_safetensors
from bnnkit.io.pt2 import read_pt2
from bnnkit.io.runtimes import open_predictor
from bnnkit.io.vision import torchvision

FORMS = ("torch", "pt2", "onnx", "torchscript")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        return self.drop(self.bn(self.conv(x))).flatten(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def sources(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    x = torch.randn(2, 3, 6, 6)
    write_onnx(model, x, folder / "m.onnx")
    write_pt2(model, x, folder / "m.pt2")
    torch.jit.trace(model, x).save(folder / "m.ts")
    names = {"pt2": "m.pt2", "onnx": "m.onnx", "torchscript": "m.ts"}
    return {"torch": model} | {form: folder / name for form, name in names.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_alike(model, sources, form):
    predictor = open_predictor(sources[form], name="it", threads=1)
    assert (predictor.name, predictor.form, predictor.device) == ("it", form, "cpu")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 6, 6)
        got = predictor(x)
        assert got.device == x.device
        assert not got.requires_grad
        torch.testing.assert_close(got, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_strided_inputs_are_read_as_they_look(model, sources):
    x = torch.randn(2, 6, 6, 3).permute(0, 3, 1, 2)
    got = open_predictor(sources["onnx"])(x)
    torch.testing.assert_close(got, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_names_default_to_the_class_or_the_stem(model, sources):
    assert open_predictor(model).name == "Small"
    assert open_predictor(str(sources["onnx"])).name == "m"


def test_a_module_that_went_on_training_is_still_evaluated(model):
    predictor = open_predictor(model)
    x = torch.randn(2, 3, 6, 6)
    before = predictor(x)
    model.train()
    assert torch.equal(predictor(x), before)


@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize(
    ("x", "named"),
    [
        (torch.zeros(2, 1, 6, 6), r"float32 \[2, 1, 6, 6\].*float32 \[\*, 3, 6, 6\]"),
        (torch.zeros(2, 3, 6), r"\[2, 3, 6\]"),
        (torch.zeros(2, 3, 6, 6, dtype=torch.float64), r"float64.*float32"),
        (torch.zeros(0, 3, 6, 6), r"\[0, 3, 6, 6\]"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_with_both_sides(sources, form, x, named):
    with pytest.raises(DataError, match=named):
        open_predictor(sources[form])(x)


class Pairs(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1) * 2.0


@pytest.mark.parametrize(("write", "name"), [(write_onnx, "m.onnx"), (write_pt2, "m.pt2")])
def test_a_fixed_batch_takes_any_number_of_inputs(tmp_path, write, name):
    written = write(Pairs(), torch.randn(2, 3), tmp_path / name)
    predictor = open_predictor(written.path)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3)
        assert torch.equal(predictor(x), 2 * x)


def test_the_output_named_logits_is_the_main_one(tmp_path):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Neg", ["x"], ["aux"]),
            onnx.helper.make_node("Abs", ["x"], ["logits"]),
        ],
        "g",
        [info("x", 1, ["b", 2])],
        [info("aux", 1, ["b", 2]), info("logits", 1, ["b", 2])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(made, tmp_path / "m.onnx")
    x = torch.tensor([[-1.0, 2.0]])
    assert torch.equal(open_predictor(tmp_path / "m.onnx")(x), x.abs())


def test_tensors_without_a_program_ask_for_the_architecture(tmp_path, model):
    written = write_safetensors(model, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="--arch"):
        open_predictor(written.path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(model):
    with pytest.raises(UsageError, match="'cuda'"):
        open_predictor(model, device="cuda")


def repacked(source, target, change):
    """Copy a .pt2 file with its members changed by `change(dict)`."""
    with zipfile.ZipFile(source) as archive:
        members = {i.filename.partition("/")[2]: archive.read(i) for i in archive.infolist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"m/{name}", data)
    return target


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def edit(member, function):
    def change(members):
        body = json.loads(members[member])
        function(body)
        members[member] = json.dumps(body).encode()

    return change


def in_model(function):
    return edit("models/model.json", function)


def first_node(model):
    return model["graph_module"]["graph"]["nodes"][0]


def sizes(model):
    return model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]


def attacks(witness):
    """Every known way to run code from a .pt2 file; each would create the file `witness`."""
    call = f"open({witness!r}, 'w')"
    spec = {"type": "collections.defaultdict", "context": "null", "children_spec": []}
    sample = io.BytesIO()
    torch.save(Touch(witness), sample)
    weights = "data/weights/model_weights_config.json"
    constants = "data/constants/model_constants_config.json"
    constant = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}

    def pickled_weight(members):
        edit(weights, lambda b: b["config"]["conv.bias"].update(use_pickle=True))(members)
        place = json.loads(members[weights])["config"]["conv.bias"]["path_name"]
        members[f"data/weights/{place}"] = sample.getvalue()

    def opaque(members):
        edit(constants, lambda b: b["config"].update(evil={**constant, "tensor_meta": None}))(
            members
        )
        members["data/constants/opaque_obj_0"] = pickle.dumps(Touch(witness))

    def signature(model):
        return model["graph_module"]["module_call_graph"][0]["signature"]

    return {
        "sample inputs": lambda m: m.update({"data/sample_inputs/model.pt": sample.getvalue()}),
        "pickled weight": pickled_weight,
        "opaque constant": opaque,
        "operator": in_model(lambda m: first_node(m).update(target="torch.hub.os.system")),
        "dunder": in_model(lambda m: first_node(m).update(target="torch.ops.__class__.x.y")),
        "file operator": in_model(
            lambda m: first_node(m).update(target="torch.ops.aten.from_file.default")
        ),
        "size": in_model(
            lambda m: sizes(m).__setitem__(0, {"as_expr": {"expr_str": call, "hint": None}})
        ),
        "size attribute": in_model(
            lambda m: sizes(m).__setitem__(
                0, {"as_expr": {"expr_str": "Symbol('s0').__class__", "hint": None}}
            )
        ),
        "name": in_model(lambda m: first_node(m).update(name=f"x\n{call}")),
        "structure": in_model(lambda m: signature(m).update(in_spec=json.dumps([1, spec]))),
        "compiled code": lambda m: m.update({"data/aotinductor/model/a.so": b"\x7fELF"}),
        "old layout": lambda m: m.update({"serialized_state_dict.pt": sample.getvalue()}),
    }


@pytest.mark.parametrize("attack", attacks("w"))
def test_a_hostile_pt2_is_refused_and_nothing_runs(sources, tmp_path, attack):
    witness = tmp_path / "witness"
    change = attacks(str(witness))[attack]
    path = repacked(sources["pt2"], tmp_path / "bad.pt2", change)
    with pytest.raises(FileRefusedError, match="could run code"):
        read_pt2(path)
    assert not witness.exists()


def test_guards_are_source_text_and_dropped(sources, tmp_path):
    guard = f"open({str(tmp_path / 'witness')!r}, 'w')"
    change = in_model(lambda m: m.update(guards_code=[guard]))
    path = repacked(sources["pt2"], tmp_path / "guarded.pt2", change)
    open_predictor(path)(torch.randn(2, 3, 6, 6))
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("arch", ["googlenet", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
@pytest.mark.slow
def test_real_networks_pass_the_check(tmp_path, arch):
    torch.manual_seed(0)
    kwargs = {"init_weights": False} if arch == "googlenet" else {}
    net = getattr(torchvision().models, arch)(weights=None, **kwargs)
    x = torch.randn(3, 3, 96, 96)
    predictor = open_predictor(write_pt2(net, x, tmp_path / "m.pt2").path)
    torch.testing.assert_close(predictor(x[:1]), net.eval()(x[:1]).detach())


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_random_damage_never_ends_in_a_traceback(sources, tmp_path, suffix):
    whole = sources[suffix].read_bytes()
    generator = torch.Generator().manual_seed(0)
    for trial in range(25):
        data = bytearray(whole)
        for i in torch.randint(len(data), (20,), generator=generator).tolist():
            data[i] ^= 0x5A
        if trial % 5 == 0:
            data = data[: len(data) // 2]
        path = tmp_path / f"{trial}.{suffix}"
        path.write_bytes(data)
        with contextlib.suppress(FileRefusedError, DataError):
            open_predictor(path)(torch.randn(2, 3, 6, 6))
