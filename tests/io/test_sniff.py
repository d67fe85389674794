"""What a file is: every kind, every look-alike, and the remedy that each refusal names."""

import io
import json
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bnnkit.errors import FileRefusedError
from bnnkit.io.sniff import FileKind, sniff, vet
from bnnkit.spec import ModelSpec, Plan


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()


def test_each_kind_is_recognised_whatever_its_name(tmp_path, net):
    state, x = net.state_dict(), torch.ones(1, 4)
    torch.save(state, tmp_path / "a.bin")
    torch.save(state, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(net, x), tmp_path / "c.bin")
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net, (x,)), buffer)
    (tmp_path / "d.bin").write_bytes(buffer.getvalue())
    save_file(state, tmp_path / "e.bin", {"bnnkit.plan": "x"})
    kinds = [sniff(tmp_path / f"{letter}.bin").kind for letter in "abcde"]
    assert kinds == [
        FileKind.TORCH_ZIP,
        FileKind.TORCH_LEGACY,
        FileKind.TORCHSCRIPT,
        FileKind.PT2,
        FileKind.SAFETENSORS,
    ]
    info = sniff(tmp_path / "e.bin")
    assert set(info.members) == set(state)
    assert info.metadata["bnnkit.plan"] == "x"
    assert info.bytes == (tmp_path / "e.bin").stat().st_size


def test_onnx_is_recognised_and_a_cut_one_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [result])
    model = onnx.helper.make_model(graph, producer_name="somebody")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    info = sniff(path)
    assert info.kind is FileKind.ONNX
    assert info.metadata == {"ir_version": str(model.ir_version), "producer": "somebody"}
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileRefusedError, match="ends in the middle"):
        sniff(path)


def test_a_run_directory_needs_both_of_its_files(tmp_path, net):
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(FileRefusedError, match=r"without plan\.json") as refused:
        sniff(tmp_path)
    assert "model.safetensors" in refused.value.hint
    (tmp_path / "plan.json").write_text(Plan(ModelSpec()).to_json())
    info = sniff(tmp_path)
    assert info.kind is FileKind.RUN
    assert info.weights_path == tmp_path / "model.safetensors"


def test_globals_are_those_that_the_unpickler_asks_for(tmp_path, net):
    path = tmp_path / "net.pt"
    torch.save(net, path)

    names = set()

    class Asked(pickle.Unpickler):
        def find_class(self, module, name):
            names.add(f"{module}.{name}".replace("__builtin__", "builtins"))
            return super().find_class(module, name)

        def persistent_load(self, pid):
            return torch.storage.TypedStorage(pid[-1], dtype=torch.float32)

    with zipfile.ZipFile(path) as archive:
        Asked(io.BytesIO(archive.read("net/data.pkl"))).load()
    found = {name.replace("__builtin__", "builtins") for name in sniff(path).globals}
    assert found == names
    assert sniff(path).classes == (
        "torch.nn.modules.activation.ReLU",
        "torch.nn.modules.container.Sequential",
        "torch.nn.modules.linear.Linear",
    )


def _tar() -> bytes:
    return bytes(257) + b"ustar" + bytes(300)


@pytest.mark.parametrize(
    ("content", "found", "hint"),
    [
        (b"", "empty file", "again"),
        (bytes(100), "zero bytes", "again"),
        (b"\n<!DOCTYPE HTML><html>", "web page", "direct link"),
        (b"<?xml version='1.0'?>", "XML", "server said"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS", "git lfs pull"),
        (b"../.git/annex/objects/x", "git-annex", "git annex get"),
        (b"\x93NUMPY\x01", "NumPy array", "--data"),
        (b"\x89PNG\r\n", "PNG", "checkpoint"),
        (b"\x1f\x8b\x08", "gzip", "gunzip"),
        (b"\x89HDF\r\n", "HDF5", "Convert"),
        (b'{"a": 1}', "JSON", "weights file"),
        (b"hello", "text file", "checkpoint"),
        (_tar(), "tar archive", "Unpack"),
        (pickle.dumps({"a": 1}, 2), "plain Python pickle", "state_dict"),
        (b"\x01\x02\x03\x04\xff", "01 02 03 04 ff", "model file"),
    ],
)
def test_what_is_no_model_is_named_with_its_remedy(tmp_path, content, found, hint):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(FileRefusedError) as refused:
        sniff(path)
    assert found in refused.value.found
    assert hint in refused.value.hint
    assert str(path) in refused.value.what
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_answered_with_its_neighbour(tmp_path):
    (tmp_path / "resnet20.pth").write_bytes(b"x")
    with pytest.raises(FileRefusedError, match=r"Did you mean 'resnet20\.pth'\?$"):
        sniff(tmp_path / "resnet2O.pth")


def test_archives_of_other_programs_are_named(tmp_path):
    np.savez(tmp_path / "data.npz", a=np.ones(3))
    with pytest.raises(FileRefusedError, match="NumPy"):
        sniff(tmp_path / "data.npz")
    with zipfile.ZipFile(tmp_path / "bag.zip", "w") as archive:
        archive.writestr("bag/model.pt", b"x")
    with pytest.raises(FileRefusedError, match=r"Unpack it and name 'model\.pt'"):
        sniff(tmp_path / "bag.zip")


def test_a_name_that_carries_a_hash_is_held_to_it(tmp_path, net):
    good = tmp_path / "plain.pt"
    torch.save(net.state_dict(), good)
    path = tmp_path / "net-12fca82f.pt"
    path.write_bytes(good.read_bytes())
    with pytest.raises(FileRefusedError, match=r"starts with [0-9a-f]{8}; the name says 12fca82f"):
        sniff(path)
    dated = tmp_path / "net-20240131.pt"  # eight digits are a date
    dated.write_bytes(good.read_bytes())
    assert sniff(dated).kind is FileKind.TORCH_ZIP


def test_vet_stops_a_pt2_that_would_unpickle_or_load_code(tmp_path, net):
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.ones(1, 4),)), buffer)
    path = tmp_path / "net.pt2"
    path.write_bytes(buffer.getvalue())
    vet(sniff(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/aotinductor/model/code.so", b"\x7fELF")
    with pytest.raises(FileRefusedError, match="compiled code"):
        vet(sniff(path))


def test_a_pickle_header_alone_needs_no_torch(tmp_path, net):
    import subprocess

    torch.save(net.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    code = (
        "import sys; from bnnkit.io.sniff import sniff; "
        f"print(sniff({str(tmp_path / 'a.pt')!r}).kind, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch-legacy", "False"]


def test_metadata_of_safetensors_survives_as_text(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"note": json.dumps({"x": 1})})
    assert json.loads(sniff(tmp_path / "a.safetensors").metadata["note"]) == {"x": 1}
