"""Features against what the modules themselves compute, in every form of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bnnkit.errors import DataError, UsageError
from bnnkit.io.architectures import build_architecture
from bnnkit.io.data import load_data
from bnnkit.io.export import write_onnx, write_pt2
from bnnkit.io.features import open_features
from bnnkit.metrics import log_probabilities
from bnnkit.metrics.generative import frechet_distance, inception_score, moments
from bnnkit.spec import DataSpec, ModelSpec

LENET = "bnnkit:mnist-lenet"
MNIST = (1, 28, 28)

SOURCE = """
from collections import OrderedDict

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.9)
        self.shared = nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)
        self.aux = nn.Linear(5, 4)
        self.pair = Pair()

    def forward(self, x):
        h = self.act(self.conv(x)).mean((2, 3))
        h = self.shared(self.shared(self.drop(h)))
        h, _ = self.pair(h)
        return {"logits": self.head(input=h), "hidden": h}


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1))


def folding():
    steps = {"fold": nn.Flatten(0, 1), "back": nn.Unflatten(0, (-1, 3)), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(steps | {"head": nn.Linear(243, 2)}))
"""


def draw(n, *shape):
    g = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, *shape), generator=g, dtype=torch.uint8)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def net(source, tmp_path):
    """A specification with its weights, and the module that they are of."""
    arch = f"{source}:Net"
    module = build_architecture(arch, {}, seed=1).eval()
    torch.save(module.state_dict(), tmp_path / "net.pth")
    return ModelSpec(file=str(tmp_path / "net.pth"), arch=arch), module


@pytest.fixture
def lenet(tmp_path):
    module = build_architecture(LENET, {}, seed=0).eval()
    torch.save(module.state_dict(), tmp_path / "lenet.pth")
    return ModelSpec(file=str(tmp_path / "lenet.pth"), arch=LENET), module


def test_the_input_of_the_last_linear_layer(lenet):
    spec, module = lenet
    images = draw(7, *MNIST)
    got = open_features(spec, MNIST)(images, 3)
    x = F.interpolate(images.float() / 255, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        wanted = module.fc[:2](module.convnet(x).flatten(1))
        outputs = module(x)
    assert got.features.dtype == torch.float32
    torch.testing.assert_close(got.features, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.outputs, outputs, rtol=1e-5, atol=1e-6)
    assert got.name == "lenet"


def test_inputs_are_those_of_a_data_set(lenet, tmp_path):
    """Bytes are resized and normalised by the same steps as `load_data` takes."""
    spec, module = lenet
    images, labels = draw(40, 28, 28).numpy(), np.arange(40) % 4
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    known = {"mean": (0.2,), "std": (0.5,)}
    data = load_data(DataSpec(str(tmp_path / "d.npz"), input_shape=(1, 32, 32), **known))
    x, _ = next(iter(data.test.batches(40)))
    with torch.no_grad():
        wanted = module(x)
    got = open_features(spec, MNIST, **known)(torch.from_numpy(images)[:, None])
    torch.testing.assert_close(got.outputs, wanted, rtol=0, atol=1e-3)  # data are resized as bytes


def test_a_layer_by_name(net):
    spec, module = net
    images = draw(6, 3, 9, 9)
    x = images.float() / 255
    with torch.no_grad():
        maps = module.conv(x)
        pooled = maps.relu().mean((2, 3))
        last = module.shared(module.shared(pooled))
    wanted = {
        "conv": maps.mean((2, 3)),  # before the activation that works in place
        "shared": last,  # the second of its two calls
        "pair": last + 1,  # the first of its two tensors
        None: last + 1,
        "head": module.head(last + 1).detach(),
    }
    for layer, features in wanted.items():
        got = open_features(spec, (3, 9, 9), layer=layer)(images, 4)
        torch.testing.assert_close(got.features, features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.outputs, wanted["head"], rtol=1e-5, atol=1e-6)
        assert got.name.endswith(f", {layer}" if layer else "net")


def test_features_can_be_trained_on_and_nothing_is_left_behind(net):
    spec, _ = net
    extractor = open_features(spec, (3, 9, 9))
    got = extractor(draw(6, 3, 9, 9))
    weight = torch.zeros(5, requires_grad=True)
    (got.features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, got.features.sum(0))
    again = extractor(draw(6, 3, 9, 9), 5)
    torch.testing.assert_close(again.features, got.features)  # no dropout, no state
    assert not any(m._forward_pre_hooks for m in extractor.net._tap._read)


def test_grey_images_for_a_colour_model_and_normalisation(net):
    spec, module = net
    spec = ModelSpec(file=spec.file, arch=spec.arch, input_shape=(3, 9, 9))
    images, mean, std = draw(4, 1, 9, 9), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    got = open_features(spec, (1, 9, 9), mean=mean, std=std)(images)
    x = images.float().expand(-1, 3, -1, -1) / 255
    x = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(got.outputs, module(x)["logits"].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_programs_give_their_output(lenet, tmp_path):
    spec, module = lenet
    example = torch.rand(2, 1, 32, 32)
    write_onnx(module, example, tmp_path / "m.onnx")
    write_pt2(module, example, tmp_path / "m.pt2")
    torch.jit.trace(module, example).save(tmp_path / "m.ts")
    images = draw(5, *MNIST)
    wanted = open_features(spec, MNIST, layer="fc")(images)
    for name in ("m.onnx", "m.pt2", "m.ts"):
        program = ModelSpec(file=str(tmp_path / name), input_shape=(1, 32, 32))
        got = open_features(program, MNIST)(images, 2)
        torch.testing.assert_close(got.features, wanted.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.outputs, wanted.outputs, rtol=1e-4, atol=1e-5)
        with pytest.raises(UsageError, match="no modules to find by name"):
            open_features(program, MNIST, layer="fc")


def test_inception_by_the_general_route():
    spec = ModelSpec(arch="torchvision:inception_v3", input_shape=(3, 299, 299))
    got = open_features(spec, MNIST, layer="avgpool", mean=(0.5,), std=(0.5,))(draw(2, *MNIST))
    assert got.features.shape == (2, 2048)
    assert got.outputs.shape == (2, 1000)
    penultimate = open_features(spec, MNIST, mean=(0.5,), std=(0.5,))(draw(2, *MNIST))
    torch.testing.assert_close(penultimate.features, got.features)  # no auxiliary head runs


def test_layers_that_are_not_there(net, source):
    spec, _ = net
    with pytest.raises(UsageError, match=r"no layer 'hed'.*Did you mean 'head'"):
        open_features(spec, (3, 9, 9), layer="hed")
    with pytest.raises(UsageError, match="'aux' did not run"):
        open_features(spec, (3, 9, 9), layer="aux")(draw(2, 3, 9, 9))
    with pytest.raises(UsageError, match=r"no nn.Linear.*such as '1'"):
        open_features(ModelSpec(arch=f"{source}:convolutional"), MNIST)


def test_images_that_do_not_fit(net, lenet):
    spec, _ = net
    extractor = open_features(spec, (3, 9, 9))
    for images in (draw(2, 3, 9, 8), draw(2, 3, 9, 9).float(), draw(0, 3, 9, 9), draw(3, 9, 9)):
        with pytest.raises(DataError, match=r"uint8 \[n, 3, 9, 9\]"):
            extractor(images)
    with pytest.raises(DataError, match=r"3x8x8.*1x32x32"):
        open_features(lenet[0], (3, 8, 8))
    for mean, std in [((0.1, 0.2), (1.0,)), ((0.0,), (0.0,)), ((torch.nan,), (1.0,))]:
        with pytest.raises(UsageError, match="one number or 3 each"):
            open_features(spec, (3, 9, 9), mean=mean, std=std)


def test_features_that_are_no_numbers(net, tmp_path):
    spec, module = net
    state = module.state_dict() | {"shared.bias": torch.full((5,), 3e38)}
    torch.save(state, tmp_path / "broken.pth")
    broken = ModelSpec(file=str(tmp_path / "broken.pth"), arch=spec.arch)
    with pytest.raises(DataError, match="not a finite number for 2 of 2 images"):
        open_features(broken, (3, 9, 9), layer="pair")(draw(2, 3, 9, 9))


def test_a_model_that_stops_is_told_in_words(tmp_path):
    (tmp_path / "stops.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(4, 1)\n"
        "    def forward(self, x):\n"
        "        if len(x) > 3:\n"
        "            raise ValueError('too many')\n"
        "        return self.head(x.flatten(1))\n"
    )
    found = open_features(ModelSpec(arch=f"{tmp_path / 'stops.py'}:Net"), (1, 2, 2))
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    assert found(images[:3]).features.shape == (3, 4)
    with pytest.raises(DataError, match="ValueError: too many; it stops on images of 1x2x2"):
        found(images)


def test_a_layer_that_mixes_images(source):
    extractor = open_features(ModelSpec(arch=f"{source}:folding"), (3, 9, 9), layer="fold")
    with pytest.raises(DataError, match="6 rows for 2 images"):
        extractor(draw(2, 3, 9, 9))


@pytest.mark.shared
def test_mnist_in_lenet(shared):
    """The floor that generators are measured against: real images against real ones."""
    spec = ModelSpec(file=str(shared / "checkpoints" / "mnist-lenet.pth"), arch=LENET)
    data = load_data(DataSpec("mnist", root=str(shared / "data")))
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:10000]
    extractor = open_features(spec, MNIST)
    test = extractor(data.test.part.images.pixels)
    train = extractor(data.train.part.images.pixels[rows])
    assert test.features.shape == (10000, 84)
    log_probs = log_probabilities(test.outputs)
    assert (log_probs.argmax(1) == data.test.labels).double().mean() > 0.99
    assert 9.7 < inception_score(log_probs.exp())[0] < 9.85
    assert 0.5 < frechet_distance(moments(train.features), moments(test.features)) < 1.5
