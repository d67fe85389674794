"""The families of real nets: random removals are exact, train, export and rebuild."""

from __future__ import annotations

import copy
import time
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.outputs import main_output
from bnnkit.graph.rebuild import make_plan, make_slim, rebuild
from bnnkit.graph.settle import EXACT, slim_exactly
from bnnkit.io.architectures import build_architecture
from bnnkit.io.export import write_onnx
from bnnkit.io.runtimes import open_predictor
from bnnkit.spec import ModelSpec, Plan

# Architecture, its arguments, the input's size, and the form that a random removal needs.
QUICK = [
    ("bnnkit:lenet5-caffe", {}, (1, 28, 28), "modules"),
    ("bnnkit:resnet20-cifar", {}, (3, 32, 32), "graph"),
    ("bnnkit:vgg-cifar", {}, (3, 32, 32), "modules"),
]
SLOW = [
    ("bnnkit:resnet56-cifar", {}, (3, 32, 32), "graph"),
    ("torchvision:resnet18", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:vgg11_bn", {"num_classes": 10}, (3, 32, 32), "modules"),
    ("torchvision:mobilenet_v2", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:densenet121", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:googlenet", {"num_classes": 10, "init_weights": False}, (3, 64, 64), "modules"),
    ("torchvision:squeezenet1_1", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:shufflenet_v2_x0_5", {"num_classes": 10}, (3, 64, 64), "graph"),
    ("torchvision:mnasnet0_5", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:efficientnet_b0", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:mobilenet_v3_small", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:regnet_y_400mf", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("torchvision:resnext50_32x4d", {"num_classes": 10}, (3, 64, 64), "modules"),
]
TIMM = [
    ("timm:resnet10t", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("timm:mobilenetv3_small_050", {"num_classes": 10}, (3, 64, 64), "modules"),
    ("timm:tf_efficientnet_lite0", {"num_classes": 10}, (3, 64, 64), "modules"),
]
SEEDS = range(5)


def build(arch, args, seed=0):
    """Build with norms whose statistics are not those of a fresh norm: else nothing is tested."""
    model = build_architecture(arch, args, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def spread(tensor, low, high):
        if tensor is not None:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            spread(module.running_mean, -0.3, 0.3)
            spread(module.running_var, 0.5, 1.5)
            spread(module.weight, 0.5, 1.5)
            spread(module.bias, -0.3, 0.3)
    return model


def decide(structure, seed):
    """Close a random half and draw random gates."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.rand(structure.n_units, generator=generator) * 0.9 + 0.1
    keep = torch.rand(structure.n_units, generator=generator) < 0.5
    return structure.ensure_alive(keep, theta)[0], theta


def inputs(shape, n=2, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def check_family(arch, args, shape, form, tmp_path, seeds):
    model = build(arch, args)
    structure = analyse(model, inputs(shape))
    assert structure.n_units > 100
    assert {p.reason for p in structure.locked} == {"the model's output"}
    x = inputs(shape)
    for seed in seeds:
        keep, theta = decide(structure, seed)
        slimmed = slim_exactly(model, structure, keep, theta, x)  # proves it, trains a step
        assert slimmed.form == form
        assert slimmed.worst <= EXACT
    check_replay(arch, args, shape, model, structure, (keep, theta, slimmed))
    written = write_onnx(slimmed.model.eval(), x, tmp_path / "slim.onnx")
    with torch.no_grad():
        expected = main_output(slimmed.model(x))
    got = open_predictor(written.path)(x)
    assert float((expected - got).abs().max() / expected.abs().max()) <= 1e-4


def check_replay(arch, args, shape, model, structure, slim):
    """The plan alone, as text, makes the same net from fresh weights."""
    keep, theta, slimmed = slim
    spec = ModelSpec(arch=arch, arch_args=args, input_shape=shape)
    plan = make_plan(structure, keep, theta, spec, form=slimmed.form, method="random")
    plan = Plan.from_json(plan.to_json())
    again = rebuild(build_architecture(arch, args, seed=9), plan)
    state = slimmed.model.state_dict()
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    assert list(state) == list(model.state_dict())
    again.load_state_dict(state)
    x = inputs(shape, 3, seed=5)
    with torch.no_grad():
        a, b = main_output(again.eval()(x)), main_output(slimmed.model.eval()(x))
    assert torch.equal(a, b)


@pytest.mark.parametrize(("arch", "args", "shape", "form"), QUICK)
def test_family(arch, args, shape, form, tmp_path):
    check_family(arch, args, shape, form, tmp_path, [0])


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "args", "shape", "form"), [*QUICK, *SLOW])
def test_family_five_times(arch, args, shape, form, tmp_path):
    check_family(arch, args, shape, form, tmp_path, SEEDS)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(("arch", "args", "shape", "form"), TIMM)
def test_family_of_timm(arch, args, shape, form, tmp_path):
    check_family(arch, args, shape, form, tmp_path, [0])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["torchvision:mobilenet_v2", "torchvision:regnet_y_400mf"])
def test_both_forms_are_one_function(arch):
    model = build(arch, {"num_classes": 10})
    structure = analyse(model, inputs((3, 64, 64)))
    keep, theta = decide(structure, 0)
    for form in ("modules", "graph"):
        slim_exactly(model, structure, keep, theta, inputs((3, 64, 64)), forms=(form,))


def test_lenet_gated_by_hand():
    """The reference multiplies activations between hand-written layers."""
    model = build("bnnkit:lenet5-caffe", {}).double()
    x = inputs((1, 28, 28), 4).double()
    structure = analyse(model.float(), inputs((1, 28, 28)))
    keep, theta = decide(structure, 3)
    gates = [(theta * keep).double()[c.units] for c in structure.classes]
    slim = make_slim(model.double(), structure, keep, theta.double(), form="modules")
    pool, relu = nn.functional.max_pool2d, torch.relu
    h = pool(relu(model.conv1(x)), 2) * gates[0][:, None, None]
    h = pool(relu(model.conv2(h)), 2) * gates[1][:, None, None]
    expected = model.fc2(relu(model.fc1(h.flatten(1))) * gates[2])
    torch.testing.assert_close(slim(x), expected, rtol=1e-11, atol=1e-11)
    assert slim.fc1.in_features == 16 * int(keep[structure.classes[1].units].sum())


def test_resnet20_with_channels_zeroed_by_hand():
    """Zeroing a closed unit's every write and every read by hand changes nothing of the slim."""
    model = build("bnnkit:resnet20-cifar", {})
    structure = analyse(model, inputs((3, 32, 32)))
    keep, _ = decide(structure, 1)
    slim = make_slim(model, structure, keep, torch.ones(len(keep)), form="graph").double().eval()
    zeroed = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for c in structure.classes:
            if c.writers != (c.name,) or len(c.readers) != 1:
                continue  # a branch: one writer, one reader
            closed = (~keep[c.units]).nonzero().flatten()
            zeroed.get_submodule(c.readers[0]).weight[:, closed] = 0
        stream = [c for c in structure.classes if len(c.readers) > 1]
        # 16 channels run through all three stages, 16 from the second on, 32 in the third.
        assert [len(c.writers) for c in stream] == [10, 6, 3]
        for c in stream:
            for reader in c.readers:
                units = structure.reads[reader]
                dead = [i for i, u in enumerate(units) if u >= 0 and not keep[u]]
                zeroed.get_submodule(reader).weight[:, dead] = 0
        x = inputs((3, 32, 32)).double()
        torch.testing.assert_close(slim(x), zeroed(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["torchvision:resnet18", "torchvision:vgg11_bn"])
def test_classes_are_the_groups_of_torch_pruning(arch):
    """An oracle that traces autograd: who loses channels together with a class's first writer."""
    pruning = pytest.importorskip("torch_pruning")
    model = build_architecture(arch, {"num_classes": 10}, seed=0).eval()
    structure = analyse(model, inputs((3, 32, 32)))
    graph = pruning.DependencyGraph().build_dependency(model, inputs((3, 32, 32), 1))
    names = {module: name for name, module in model.named_modules()}
    for c in structure.classes:
        layer = model.get_submodule(c.name)
        prune = pruning.prune_linear_out_channels if isinstance(layer, nn.Linear) else (
            pruning.prune_conv_out_channels)  # fmt: skip
        group = graph.get_pruning_group(layer, prune, idxs=[0])
        out, read = set(), set()
        for dependency, _ in group:
            target = names.get(dependency.target.module)
            if isinstance(dependency.target.module, nn.Linear | nn.Conv2d):
                is_read = dependency.handler in (
                    pruning.prune_linear_in_channels, pruning.prune_conv_in_channels)  # fmt: skip
                (read if is_read else out).add(target)
        assert (out, read) == (set(c.writers), set(c.readers))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "seconds"), [("torchvision:resnet18", 5), ("torchvision:densenet121", 30)]
)
def test_analysis_is_quick(arch, seconds):
    model = build_architecture(arch, {}, seed=0)
    began = time.process_time()
    analyse(model, inputs((3, 224, 224)))
    assert time.process_time() - began <= seconds
