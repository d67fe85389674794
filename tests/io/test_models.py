"""File and architecture into a module: what fits, what is inferred, what is refused."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bnnkit.errors import ArchitectureError, BnnkitError
from bnnkit.io.architectures import build_architecture
from bnnkit.io.models import LoadedModel, load_model
from bnnkit.io.trust import is_trusted
from bnnkit.spec import ModelSpec, Plan

CHECKPOINTS = Path(__file__).resolve().parents[3] / "shared" / "checkpoints"
FILE_NET = "from torch import nn\ndef build(width=8):\n    return nn.Sequential(\n"
FILE_NET += "        nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))\n"

needs_shared = pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="no ../shared/checkpoints")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "home" / "trusted.json"


@pytest.fixture
def load(store):
    def run(file=None, arch=None, **more) -> LoadedModel:
        seed = more.pop("seed", 0)
        spec = ModelSpec(file=None if file is None else str(file), arch=arch, **more)
        return load_model(spec, seed=seed, trust_store=store)

    return run


@pytest.fixture
def refuse(load):
    def run(*args, **kwargs) -> BnnkitError:
        with pytest.raises(ArchitectureError) as caught:
            load(*args, **kwargs)
        error = caught.value
        assert error.what
        assert error.found
        assert error.why
        assert error.hint
        return error

    return run


def saved(path, state):
    torch.save(state, path)
    return path


def same_weights(module, state):
    mine = module.state_dict()
    return all(torch.equal(mine[k], v) for k, v in state.items())


# fresh weights


def test_fresh_weights_are_seeded(load):
    one, two = (load(arch="bnnkit:lenet-300-100", seed=s) for s in (1, 1))
    other = load(arch="bnnkit:lenet-300-100", seed=2)
    assert torch.equal(one.module.fc1.weight, two.module.fc1.weight)
    assert not torch.equal(one.module.fc1.weight, other.module.fc1.weight)
    assert one.spec.input_shape == (1, 28, 28)
    assert one.module.training
    assert one.plan is None
    assert one.form == "modules"
    assert "seed 1" in one.notes[0]


def test_nothing_named(refuse):
    assert "--arch" in refuse().hint


# tensors and an architecture


def test_matching_tensors(load, tmp_path):
    source = build_architecture("bnnkit:resnet20-cifar", seed=5)
    file = saved(tmp_path / "a.pt", source.state_dict())
    loaded = load(file, "bnnkit:resnet20-cifar")
    assert same_weights(loaded.module, source.state_dict())
    assert set(loaded.keys.matched) == set(source.state_dict())
    assert loaded.keys.fits
    assert loaded.module.training
    assert loaded.spec.input_shape == (3, 32, 32)


def test_input_shape_of_the_caller_wins(load, tmp_path):
    file = saved(tmp_path / "a.pt", build_architecture("bnnkit:resnet20-cifar").state_dict())
    assert load(file, "bnnkit:resnet20-cifar", input_shape=(3, 64, 64)).spec.input_shape[1] == 64


def test_only_tensors(refuse, tmp_path):
    state = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).state_dict()
    error = refuse(saved(tmp_path / "a.pt", state))
    assert "only tensors, 4 of them" in error.found
    assert "0.weight [5, 3]" in error.found
    assert "--arch" in error.hint


@pytest.mark.parametrize(
    ("arch", "args"),
    [
        ("bnnkit:resnet32-cifar", {}),
        ("bnnkit:lenet5-caffe", {"num_classes": 3}),
        ("torchvision:resnet18", {"num_classes": 10}),
        ("torchvision:mobilenet_v2", {}),
        ("torchvision:densenet121", {}),
        ("torchvision:googlenet", {"num_classes": 7}),
        ("torchvision:inception_v3", {}),
        ("torchvision:shufflenet_v2_x0_5", {}),
        ("torchvision:mnasnet0_5", {}),
        ("torchvision:squeezenet1_1", {}),
    ],
)
def test_only_tensors_of_a_known_architecture(refuse, tmp_path, arch, args):
    state = build_architecture(arch, args).state_dict()
    assert arch in refuse(saved(tmp_path / "a.pt", state)).hint


@pytest.mark.parametrize("arch", ["torchvision:resnet18", "torchvision:squeezenet1_1"])
def test_number_of_classes_comes_from_the_file(load, tmp_path, arch):
    source = build_architecture(arch, {"num_classes": 10}, seed=3)
    loaded = load(saved(tmp_path / "a.pt", source.state_dict()), arch)
    assert same_weights(loaded.module, source.state_dict())
    assert loaded.spec.arch_args == {"num_classes": 10}
    assert any("num_classes=10" in note for note in loaded.notes)


def test_number_of_classes_with_auxiliary_heads(load, tmp_path):
    source = build_architecture("torchvision:googlenet", {"num_classes": 5}, seed=3)
    loaded = load(saved(tmp_path / "a.pt", source.state_dict()), "torchvision:googlenet")
    assert loaded.module.aux1.fc2.out_features == 5
    assert same_weights(loaded.module, source.state_dict())


def test_number_of_classes_of_the_caller_is_not_overruled(refuse, tmp_path):
    state = build_architecture("bnnkit:resnet20-cifar").state_dict()
    file = saved(tmp_path / "a.pt", state)
    error = refuse(file, "bnnkit:resnet20-cifar", arch_args={"num_classes": 100})
    assert "linear.weight [10, 64] in the file, [100, 64] in the model" in error.found
    assert "--arch-arg num_classes=10" in error.hint


def test_number_of_classes_where_the_factory_does_not_take_it(refuse, tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE_NET)
    state = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict()
    assert "num_classes=3" in refuse(saved(tmp_path / "a.pt", state), f"{path}:build").hint


def test_batch_counters_may_be_absent(load, tmp_path):
    source = build_architecture("bnnkit:digits-cnn", seed=3).state_dict()
    state = {k: v for k, v in source.items() if "num_batches" not in k}
    loaded = load(saved(tmp_path / "a.pt", state), "bnnkit:digits-cnn")
    assert same_weights(loaded.module, state)
    assert set(loaded.keys.missing) == set(source) - set(state)
    assert any("3 batch counters" in note for note in loaded.notes)


def test_missing_unexpected_and_other_shapes_are_counted(refuse, tmp_path):
    state = build_architecture("bnnkit:digits-cnn").state_dict()
    del state["fc.bias"], state["bn1.weight"]
    state["extra.weight"] = torch.zeros(3)
    state["conv2.weight"] = torch.zeros(64, 32, 1, 1)
    error = refuse(saved(tmp_path / "a.pt", state), "bnnkit:digits-cnn")
    assert "2 missing (bn1.weight, fc.bias)" in error.found
    assert "1 unexpected (extra.weight)" in error.found
    assert "conv2.weight [64, 32, 1, 1] in the file, [64, 32, 3, 3] in the model" in error.found


def test_unexpected_alone_is_refused(refuse, tmp_path):
    state = build_architecture("bnnkit:digits-cnn").state_dict()
    state["head2.weight"] = torch.zeros(3)
    error = refuse(saved(tmp_path / "a.pt", state), "bnnkit:digits-cnn")
    assert "1 unexpected (head2.weight)" in error.found


@pytest.mark.parametrize(("inside", "built"), [(True, False), (False, True)])
def test_auxiliary_heads(refuse, tmp_path, inside, built):
    args = {"num_classes": 3}
    source = build_architecture("torchvision:googlenet", {**args, "aux_logits": inside})
    file = saved(tmp_path / "a.pt", source.state_dict())
    error = refuse(file, "torchvision:googlenet", arch_args={**args, "aux_logits": built})
    assert f"--arch-arg aux_logits={inside}" in error.hint


def test_another_known_architecture_is_suggested(refuse, tmp_path):
    state = build_architecture("bnnkit:resnet32-cifar").state_dict()
    error = refuse(saved(tmp_path / "a.pt", state), "bnnkit:resnet20-cifar")
    assert "--arch bnnkit:resnet32-cifar" in error.hint
    assert "..." in error.found  # only the first few names


@pytest.mark.parametrize("prefix", ["net.", "module.", "model.backbone."])
def test_prefix_that_only_the_file_has(load, tmp_path, prefix):
    source = build_architecture("bnnkit:digits-cnn", seed=3).state_dict()
    file = saved(tmp_path / "a.pt", {prefix + k: v for k, v in source.items()})
    loaded = load(file, "bnnkit:digits-cnn")
    assert same_weights(loaded.module, source)
    assert any("was stripped" in note for note in loaded.notes)


def test_prefix_that_only_the_module_has(load, tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.model = nn.Linear(2, 2)\n"
    )
    state = {"model.weight": torch.ones(2, 2), "model.bias": torch.ones(2)}
    loaded = load(saved(tmp_path / "a.pt", state), f"{path}:Net")
    assert torch.equal(loaded.module.model.weight, torch.ones(2, 2))


def test_tied_weights_saved_once(load, tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Linear(2, 2)\n"
        "        self.b = nn.Linear(2, 2)\n        self.b.weight = self.a.weight\n"
    )
    state = {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2), "b.bias": torch.zeros(2)}
    module = load(saved(tmp_path / "a.pt", state), f"{path}:Net").module
    assert module.a.weight is module.b.weight
    assert torch.equal(module.b.weight, torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(load, tmp_path, dtype):
    source = build_architecture("bnnkit:digits-cnn", seed=3).to(dtype).state_dict()
    loaded = load(saved(tmp_path / "a.pt", source), "bnnkit:digits-cnn")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.module.conv2.weight, source["conv2.weight"].float())
    floating = sum(v.is_floating_point() for v in source.values())
    assert any(f"{floating} tensors in {dtype}" in note for note in loaded.notes)


def test_factory_that_builds_in_half_precision(load, tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\ndef build():\n    return nn.Linear(2, 2).half()\n")
    state = {"weight": torch.full((2, 2), 0.1), "bias": torch.zeros(2)}
    loaded = load(saved(tmp_path / "a.pt", state), f"{path}:build")
    assert torch.equal(loaded.module.weight, state["weight"])
    assert any("torch.float16" in note for note in loaded.notes)


# names, digests and trust


def test_relative_file_becomes_absolute_and_is_remembered(load, tmp_path, monkeypatch, store):
    path = tmp_path / "net.py"
    path.write_text(FILE_NET)
    monkeypatch.chdir(tmp_path)
    loaded = load(arch="net.py:build", arch_args={"width": 3})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.spec.arch == f"{path.resolve()}:build"
    assert loaded.spec.arch_digest == digest
    assert loaded.spec.arch_args == {"width": 3}
    assert is_trusted(f"{path.resolve()}:build", digest, store=store)


def test_libraries_are_not_remembered(load, store):
    load(arch="bnnkit:digits-cnn")
    assert not store.exists()


def test_unwritable_store_does_no_harm(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE_NET)
    load_model(ModelSpec(arch=f"{path}:build"), trust_store=path / "trusted.json")


# files with a plan


def slim_file(path, arch, args, digest=None):
    """Write a slim 4-5-2 net, cut out of 4-8-2, with the plan that says so."""
    kept = (0, 2, 3, 6, 7)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "0.weight": torch.rand(5, 4, generator=generator),
        "0.bias": torch.rand(5, generator=generator),
        "2.weight": torch.rand(2, 5, generator=generator),
        "2.bias": torch.rand(2, generator=generator),
    }
    plan = Plan(
        model=ModelSpec(arch=arch, arch_args=args, arch_digest=digest, input_shape=(4,)),
        slices={"0.weight": {0: kept}, "0.bias": {0: kept}, "2.weight": {1: kept}},
    )
    save_file(tensors, path, metadata={"bnnkit.plan": plan.to_json()})
    return path, tensors


def check_slim(loaded, tensors):
    assert same_weights(loaded.module, tensors)
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    hidden = torch.relu(x @ tensors["0.weight"].T + tensors["0.bias"])
    torch.testing.assert_close(
        loaded.module(x), hidden @ tensors["2.weight"].T + tensors["2.bias"]
    )
    assert loaded.plan is not None
    assert loaded.keys.fits
    assert loaded.spec.input_shape == (4,)


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE_NET)
    return path


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_plan_of_a_remembered_file(load, tmp_path, net):
    arch = f"{net.resolve()}:build"
    load(arch=arch)
    file, tensors = slim_file(tmp_path / "s.safetensors", arch, {"width": 8}, digest_of(net))
    check_slim(load(file), tensors)


def test_plan_of_a_zoo_architecture_builds_silently(load, tmp_path):
    source = build_architecture("bnnkit:mlp-gan-generator", {"hidden": 8}, seed=1)
    plan = Plan(model=ModelSpec(arch="bnnkit:mlp-gan-generator", arch_args={"hidden": 8}))
    file = tmp_path / "g.safetensors"
    save_file(source.state_dict(), file, metadata={"bnnkit.plan": plan.to_json()})
    loaded = load(file)
    assert same_weights(loaded.module, source.state_dict())
    assert loaded.plan.model.arch == loaded.spec.arch == "bnnkit:mlp-gan-generator"


def test_plan_of_a_strange_file_is_not_run(refuse, tmp_path):
    net = tmp_path / "net.py"
    net.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    file, _ = slim_file(tmp_path / "s.safetensors", f"{net}:build", {}, digest_of(net))
    error = refuse(file)
    assert str(net) in error.found
    assert f"--arch {net}:build if you trust it" in error.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("arch", ["os:system", "posix:system", "subprocess:run"])
def test_plan_that_names_a_command_is_not_run(refuse, tmp_path, arch):
    marker = tmp_path / "ran"
    args = {"command": f"touch {marker}"}
    file, _ = slim_file(tmp_path / "s.safetensors", arch, args)
    error = refuse(file)
    assert arch in error.found
    assert not marker.exists()


def test_a_module_of_the_same_name_elsewhere_is_a_stranger(load, refuse, tmp_path, monkeypatch):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
        (folder / "twin_of_test.py").write_text(FILE_NET)
    monkeypatch.chdir(mine)
    load(arch="twin_of_test:build")
    (theirs / "twin_of_test.py").write_text("raise SystemExit('ran')\n")
    file, _ = slim_file(theirs / "s.safetensors", "twin_of_test:build", {})
    monkeypatch.chdir(theirs)
    assert "twin_of_test:build" in refuse(file).found


def test_plan_may_not_ask_for_a_download(refuse, tmp_path):
    args = {"weights": "DEFAULT"}
    file, _ = slim_file(tmp_path / "s.safetensors", "torchvision:resnet18", args)
    assert "never downloaded" in refuse(file).why


def test_changed_source_names_both_digests(load, refuse, tmp_path, net):
    arch = f"{net.resolve()}:build"
    load(arch=arch)
    old = digest_of(net)
    file, tensors = slim_file(tmp_path / "s.safetensors", arch, {}, old)
    net.write_text(FILE_NET + "# edited\n")
    error = refuse(file)
    assert digest_of(net) in error.found
    assert old in error.why
    loaded = load(file, arch)
    check_slim(loaded, tensors)
    assert any("not the one" in note for note in loaded.notes)
    assert loaded.plan.model.arch_digest == digest_of(net)


def test_source_that_is_gone(refuse, tmp_path, net):
    old = digest_of(net)
    file, _ = slim_file(tmp_path / "s.safetensors", f"{net}:build", {}, old)
    net.unlink()
    assert "is not there" in refuse(file).found


def test_caller_overrides_the_place_and_keeps_the_arguments(load, tmp_path, net):
    net.write_text(FILE_NET.replace("width=8", "width"))
    file, tensors = slim_file(tmp_path / "s.safetensors", "/gone/net.py:build", {"width": 8})
    loaded = load(file, f"{net}:build")
    check_slim(loaded, tensors)
    assert loaded.spec.arch_args == {"width": 8}


@pytest.mark.parametrize(("arch", "args"), [(None, {}), (3, {}), ("bnnkit:digits-cnn", [1])])
def test_malformed_architecture_in_a_plan(refuse, tmp_path, arch, args):
    file, _ = slim_file(tmp_path / "s.safetensors", arch, args)
    assert "--arch" in refuse(file).hint


def test_plan_and_tensors_that_disagree(refuse, load, tmp_path, net):
    arch = f"{net.resolve()}:build"
    load(arch=arch)
    file, tensors = slim_file(tmp_path / "s.safetensors", arch, {}, digest_of(net))
    plan = load(file).plan
    tensors["0.bias"] = torch.zeros(6)
    save_file(tensors, file, metadata={"bnnkit.plan": plan.to_json()})
    assert "0.bias [6] in the file, [5] in the model" in refuse(file).found


# pickled modules


def test_pickled_module_with_an_architecture(load, tmp_path):
    source = build_architecture("torchvision:squeezenet1_1", {"num_classes": 4}, seed=1)
    file = saved(tmp_path / "m.pt", source)
    loaded = load(file, "torchvision:squeezenet1_1")
    assert loaded.module is not source
    assert same_weights(loaded.module, source.state_dict())


def test_pickled_module_that_is_trusted(load, tmp_path):
    file = saved(tmp_path / "m.pt", build_architecture("bnnkit:digits-cnn", seed=1).eval())
    loaded = load(file, trust_pickle=True)
    assert type(loaded.module).__name__ == "DigitsCNN"
    assert loaded.module.training
    assert loaded.keys.fits


# the real files


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "arch", "shape"),
    [
        ("resnet20-12fca82f.th", "bnnkit:resnet20-cifar", (3, 32, 32)),
        ("resnet20-cifar10-jpeg.safetensors", "bnnkit:resnet20-cifar", (3, 32, 32)),
        ("mnist-lenet.pth", "bnnkit:mnist-lenet", (1, 32, 32)),
        ("mnist-mlp-gan-G.ckpt", "bnnkit:mlp-gan-generator", (64,)),
        ("mnist-mlp-gan-D.ckpt", "bnnkit:mlp-gan-discriminator", (784,)),
    ],
)
def test_real_checkpoints(load, refuse, file, arch, shape):
    loaded = load(CHECKPOINTS / file, arch)
    assert not loaded.keys.unexpected
    assert not loaded.keys.shape_differing
    assert all(k.endswith("num_batches_tracked") for k in loaded.keys.missing)
    assert loaded.spec.input_shape == shape
    assert loaded.module.eval()(torch.zeros(2, *shape)).isfinite().all()
    assert arch in refuse(CHECKPOINTS / file).hint


@needs_shared
@pytest.mark.shared
def test_public_resnet20_loads_strictly(load):
    loaded = load(CHECKPOINTS / "resnet20-12fca82f.th", "bnnkit:resnet20-cifar")
    public = torch.load(
        CHECKPOINTS / "resnet20-12fca82f.th", map_location="cpu", weights_only=True
    )
    state = {k.removeprefix("module."): v for k, v in public["state_dict"].items()}
    assert same_weights(loaded.module, state)
    assert sorted(loaded.keys.matched) == sorted(state)


@needs_shared
@pytest.mark.shared
def test_real_lenet_reads_real_digits(load):
    raw = CHECKPOINTS.parent / "data" / "MNIST" / "raw"
    if not raw.is_dir():
        pytest.skip("no ../shared/data/MNIST")
    images = torch.frombuffer(
        bytearray((raw / "t10k-images-idx3-ubyte").read_bytes()[16:]), dtype=torch.uint8
    )
    labels = torch.frombuffer(
        bytearray((raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]), dtype=torch.uint8
    )
    x = images.view(-1, 1, 28, 28)[:1000].float() / 255
    x = nn.functional.interpolate(x, size=(32, 32), mode="bilinear")
    module = load(CHECKPOINTS / "mnist-lenet.pth", "bnnkit:mnist-lenet").module.eval()
    accuracy = (module(x).argmax(1) == labels[:1000]).double().mean()
    assert accuracy >= 0.97
