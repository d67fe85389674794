"""Architectures by name: every provider, and every way in which a name can be wrong."""

import hashlib
import pickle
import random
import sys
import textwrap

import pytest
import torch
from torch import nn

from bnnkit.errors import ArchitectureError, UsageError
from bnnkit.io.architectures import (
    absolute_architecture,
    accepts_argument,
    arch_digest,
    build_architecture,
    default_input_shape,
    is_own_code,
    known_architectures,
    parse_arch_args,
    trust_key,
)

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes, width=4):
            super().__init__()
            self.fc = nn.Linear(width, num_classes)

        def forward(self, x):
            return self.fc(x)

    def build(num_classes=3):
        return Net(num_classes)

    ready = nn.Linear(2, 2)
    number = 5

    def weights():
        return nn.Linear(2, 2).state_dict()

    def give_class():
        return Net

    def fails():
        raise ValueError("no luck")
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(textwrap.dedent(NET))
    return path


def refused(arch, args=None):
    with pytest.raises(ArchitectureError) as caught:
        build_architecture(arch, args)
    error = caught.value
    assert error.what
    assert error.found
    assert error.why
    assert error.hint
    return error


# providers


def test_zoo_entry_with_arguments():
    model = build_architecture("bnnkit:resnet20-cifar", {"num_classes": 5})
    assert model.linear.out_features == 5
    assert model.training


def test_torchvision_equals_its_own_constructor():
    model = build_architecture("torchvision:resnet18", {"num_classes": 7})
    assert type(model).__module__ == "torchvision.models.resnet"
    assert model.fc.out_features == 7


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_googlenet_and_inception_start_quietly(name, recwarn):
    model = build_architecture(f"torchvision:{name}", {"num_classes": 3})
    assert model.fc.out_features == 3
    assert not [w for w in recwarn if "weight initialization" in str(w.message)]


def test_segmentation_does_not_fetch_its_backbone(monkeypatch):
    def fetch(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    build_architecture("torchvision:lraspp_mobilenet_v3_large")


def test_timm_and_its_tags():
    pytest.importorskip("bnnkit.io.vision").torchvision()
    pytest.importorskip("timm")
    model = build_architecture("timm:resnet10t", {"num_classes": 4})
    assert model.get_classifier().out_features == 4
    assert "resnet18" in known_architectures("timm")
    build_architecture("timm:test_vit.r160_in1k", {"num_classes": 2})


def test_timm_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install bnnkit[timm]" in refused("timm:resnet18").hint


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/somewhere"])
def test_timm_reads_no_hub_and_no_folder(name):
    pytest.importorskip("bnnkit.io.vision").torchvision()
    pytest.importorskip("timm")
    refused(f"timm:{name}")


@pytest.mark.parametrize(
    ("arch", "args"),
    [
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("torchvision:resnet18", {"pretrained": True}),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}),
    ],
)
def test_weights_are_never_downloaded(arch, args):
    assert "never downloaded" in refused(arch, args).why


def test_false_weights_are_allowed():
    build_architecture("torchvision:squeezenet1_1", {"weights": None})


# the user's own code


@pytest.mark.parametrize(("item", "out"), [("build", 3), ("Net", 6)])
def test_function_and_class_in_a_file(net, item, out):
    args = {"num_classes": 6} if item == "Net" else {}
    assert build_architecture(f"{net}:{item}", args).fc.out_features == out


def test_instance_is_copied(net):
    first = build_architecture(f"{net}:ready")
    second = build_architecture(f"{net}:ready")
    assert first is not second
    nn.init.zeros_(first.weight)
    assert second.weight.abs().max() > 0
    assert "already built" in refused(f"{net}:ready", {"x": 1}).why


def test_module_factory_with_the_current_folder_on_the_path(net, tmp_path, monkeypatch):
    package = tmp_path / "pkg_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mod.py").write_text(net.read_text())
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert build_architecture("pkg_of_test.mod:build").fc.out_features == 3
    assert sys.path == before


def test_files_of_one_name_do_not_mix(tmp_path):
    for width in (2, 3):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "net.py").write_text(
            f"from torch import nn\ndef build():\n    return nn.Linear({width}, {width})\n"
        )
    assert build_architecture(f"{tmp_path}/2/net.py:build").in_features == 2
    assert build_architecture(f"{tmp_path}/3/net.py:build").in_features == 3


def test_an_edited_file_is_read_again(net):
    assert build_architecture(f"{net}:build").fc.in_features == 4
    net.write_text(net.read_text().replace("width=4", "width=9"))
    assert build_architecture(f"{net}:build").fc.in_features == 9


def test_neighbours_can_be_imported_also_inside_the_factory(tmp_path):
    (tmp_path / "neighbour_of_test.py").write_text("WIDTH = 5\n")
    (tmp_path / "late_neighbour_of_test.py").write_text("HEIGHT = 6\n")
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\nimport neighbour_of_test\n"
        "def build():\n    from late_neighbour_of_test import HEIGHT\n"
        "    return nn.Linear(neighbour_of_test.WIDTH, HEIGHT)\n"
    )
    before = list(sys.path)
    model = build_architecture(f"{path}:build")
    assert (model.in_features, model.out_features) == (5, 6)
    assert sys.path == before


def test_dataclasses_and_pickle_work_in_a_file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from torch import nn\n@dataclass\nclass Config:\n    width: int = 2\n"
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"
        "        self.config = Config()\n"
    )
    model = build_architecture(f"{path}:Net")
    assert pickle.loads(pickle.dumps(model)).config.width == 2


# seeds


def test_seeded_and_the_global_state_is_kept(net):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    python_state = random.getstate()
    one = build_architecture(f"{net}:build", seed=1)
    again = build_architecture(f"{net}:build", seed=1)
    other = build_architecture(f"{net}:build", seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state
    assert torch.equal(one.fc.weight, again.fc.weight)
    assert not torch.equal(one.fc.weight, other.fc.weight)
    torch.manual_seed(1)
    assert torch.equal(nn.Linear(4, 3).weight, one.fc.weight)


# refusals


def test_unknown_provider():
    assert "Did you mean 'torchvision'?" in refused("torchvison:resnet18").hint


@pytest.mark.parametrize(
    ("arch", "near"),
    [
        ("torchvision:resnet81", "'resnet18'"),
        ("bnnkit:resnet20-cifra", "'resnet20-cifar'"),
        ("bnnkit:zzz", "Known: "),
    ],
)
def test_unknown_name(arch, near):
    assert near in refused(arch).hint


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet18", "'torchvision:resnet18'"),
        ("lenet5-caffe", "'bnnkit:lenet5-caffe'"),
        ("something", "torchvision:NAME"),
    ],
)
def test_name_without_provider(arch, hint):
    assert hint in refused(arch).hint


def test_file_without_factory_is_read_not_run(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("raise SystemExit('ran')\nclass Net: pass\ndef build(): pass\n")
    error = refused(str(path))
    assert f"{path}:Net or build" in error.hint


def test_factory_missing_in_file(net):
    error = refused(f"{net}:biuld")
    assert "'biuld'" in error.found
    assert error.hint == "Did you mean 'build'?"


def test_missing_file(tmp_path):
    assert "no file" in refused(f"{tmp_path}/none.py:build").found


@pytest.mark.parametrize(
    ("code", "line", "says", "hint"),
    [
        ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError", "Correct it"),
        ("def f(:\n    pass\n", 1, "SyntaxError", "Correct it"),
        ("\n\nimport not_here_at_all\n", 3, "ModuleNotFoundError", "Install 'not_here_at_all'"),
        ("from .layers import x\n", 1, "ImportError", "package.module:factory"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit", "Correct it"),
    ],
)
def test_error_inside_the_users_file(tmp_path, code, line, says, hint):
    path = tmp_path / "net.py"
    path.write_text(code)
    error = refused(f"{path}:build")
    assert f"{path}:{line}: {says}" in error.found
    assert hint in error.hint
    assert not [m for m in sys.modules if m.startswith("bnnkit_arch_net_") and tmp_path.name in m]


def test_error_in_a_neighbour_names_the_neighbour(tmp_path):
    (tmp_path / "broken_neighbour_of_test.py").write_text("\n1 / 0\n")
    (tmp_path / "net.py").write_text("import broken_neighbour_of_test\n")
    error = refused(f"{tmp_path}/net.py:build")
    assert f"{tmp_path / 'broken_neighbour_of_test.py'}:2: ZeroDivisionError" in error.found


def test_missing_argument(net):
    error = refused(f"{net}:Net")
    assert "num_classes" in error.found
    assert "--arch-arg num_classes=VALUE" in error.hint


def test_unknown_argument(net):
    error = refused(f"{net}:Net", {"num_classes": 2, "widht": 3})
    assert "widht" in error.found
    assert error.hint == "Did you mean 'width'?"


def test_unknown_argument_of_torchvision():
    assert "'classes'" in refused("torchvision:resnet18", {"classes": 3}).found


def test_factory_raises(net):
    line = net.read_text().splitlines().index('    raise ValueError("no luck")') + 1
    assert f"{net}:{line}: ValueError: no luck" in refused(f"{net}:fails").found


@pytest.mark.parametrize(
    ("item", "found"), [("weights", "'OrderedDict'"), ("give_class", "'Net'"), ("number", "'int'")]
)
def test_not_a_module(net, item, found):
    error = refused(f"{net}:{item}")
    assert found in error.found


def test_unknown_provider_has_no_list():
    with pytest.raises(ArchitectureError, match="Did you mean 'timm'"):
        known_architectures("tim")


# names, digests, arguments


def test_digest_and_absolute_path(net, monkeypatch):
    monkeypatch.chdir(net.parent)
    expected = hashlib.sha256(net.read_bytes()).hexdigest()
    assert arch_digest("net.py:build") == expected
    assert absolute_architecture("net.py:build") == f"{net.resolve()}:build"
    assert arch_digest("bnnkit:lenet5-caffe") is None
    assert absolute_architecture("torchvision:resnet18") == "torchvision:resnet18"
    assert arch_digest("none.py:build") is None


def test_a_modules_source_is_found_without_running_it(tmp_path, monkeypatch):
    package = tmp_path / "explosive_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('ran')\n")
    (package / "mod.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    expected = hashlib.sha256((package / "mod.py").read_bytes()).hexdigest()
    assert arch_digest("explosive_of_test.mod:build") == expected
    assert trust_key("explosive_of_test.mod:build") == f"{(package / 'mod.py').resolve()}:build"
    assert "explosive_of_test" not in sys.modules


def test_own_code(net):
    assert is_own_code(f"{net}:build")
    assert is_own_code("os:system")
    assert not is_own_code("timm:resnet18")


def test_accepts_argument(net):
    assert accepts_argument(f"{net}:build", "num_classes")
    assert not accepts_argument(f"{net}:fails", "num_classes")
    assert not accepts_argument(f"{net}:ready", "num_classes")
    assert accepts_argument("torchvision:resnet18", "num_classes")
    assert not accepts_argument("bnnkit:mlp-gan-generator", "num_classes")


@pytest.mark.parametrize(
    ("arch", "args", "shape"),
    [
        ("bnnkit:resnet20-cifar", {}, (3, 32, 32)),
        ("bnnkit:lenet5-caffe", {"in_channels": 3}, (3, 28, 28)),
        ("bnnkit:lenet-300-100", {"in_features": 64}, (64,)),
        ("bnnkit:dcgan-generator", {"latent": 10}, (10, 1, 1)),
        ("bnnkit:vae-mnist", {"latent": 10}, (1, 28, 28)),
        ("torchvision:resnet18", {}, None),
    ],
)
def test_default_input_shape(arch, args, shape):
    assert default_input_shape(arch, args) == shape
    if shape is not None:
        build_architecture(arch, args).eval()(torch.zeros(2, *shape))


def test_parse_arch_args():
    items = ["num_classes=10", "p=0.5", "act=relu", "b=True", "c=false", "s=(1, 2)", "e=a=b", "n="]
    assert parse_arch_args(items) == {
        "num_classes": 10,
        "p": 0.5,
        "act": "relu",
        "b": True,
        "c": False,
        "s": (1, 2),
        "e": "a=b",
        "n": "",
    }


@pytest.mark.parametrize("items", [["num_classes"], ["=3"], ["a b=3"], ["a=1", "a=2"]])
def test_malformed_arch_args(items):
    with pytest.raises(UsageError) as caught:
        parse_arch_args(items)
    assert "name=value" in str(caught.value) or "twice" in str(caught.value)
