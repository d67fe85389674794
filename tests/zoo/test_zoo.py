"""Every reference architecture: shapes, published sizes, tracing, names of public checkpoints."""

import pytest
import torch

from bnnkit.zoo import INPUT_SHAPES, ZOO

CLASSIFIERS = [
    "digits-cnn",
    "lenet-300-100",
    "lenet5-bn",
    "lenet5-caffe",
    "mlp-500-300",
    "mnist-lenet",
    "resnet18-cifar",
    "resnet20-cifar",
    "resnet32-cifar",
    "resnet44-cifar",
    "resnet56-cifar",
    "vgg-cifar",
    "vgg11-cifar",
]


def first(output):
    return output[0] if isinstance(output, tuple) else output


def test_every_entry_has_an_input_shape():
    assert ZOO.keys() == INPUT_SHAPES.keys()


@pytest.mark.parametrize("name", sorted(ZOO))
def test_forward_backward_and_export(name):
    model = ZOO[name]().eval()
    x = torch.randn(2, *INPUT_SHAPES[name], generator=torch.Generator().manual_seed(0))
    out = first(model(x))
    assert out.shape[0] == 2
    assert out.isfinite().all()
    out.sum().backward()
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(first(exported(x)), out)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_num_classes(name):
    model = ZOO[name](num_classes=7).eval()
    assert model(torch.zeros(3, *INPUT_SHAPES[name])).shape == (3, 7)


@pytest.mark.parametrize(
    "name", [n for n in CLASSIFIERS if n not in ("lenet-300-100", "mlp-500-300")]
)
def test_in_channels(name):
    shape = INPUT_SHAPES[name]
    model = ZOO[name](in_channels=2).eval()
    assert model(torch.zeros(3, 2, *shape[1:])).shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet-300-100", 784 * 300 + 300 + 300 * 100 + 100 + 1010),  # 266,610 in the papers
        ("lenet5-caffe", 431_080),  # Caffe's LeNet in the pruning papers
        ("lenet5-bn", 431_650),  # that, with two numbers a norm in place of a bias
        ("resnet18-cifar", 11_173_962),  # the widely used CIFAR code
        ("resnet20-cifar", 269_722),  # 0.27 M, He et al. table 6, option A
        ("resnet32-cifar", 464_154),  # 0.46 M
        ("resnet44-cifar", 658_586),  # 0.66 M
        ("resnet56-cifar", 853_018),  # 0.85 M
        ("vgg-cifar", 14_991_946),
        ("vgg11-cifar", 9_231_114),  # the same code's VGG-11
    ],
)
def test_published_sizes(name, parameters):
    assert sum(p.numel() for p in ZOO[name]().parameters()) == parameters


def test_vgg_scale_and_dropout():
    convs = [m for m in ZOO["vgg-cifar"](scale=0.25).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convs] == [16, 16, 32, 32] + [64] * 3 + [128] * 6
    rates = [m.p for m in ZOO["vgg-cifar"]().modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.3] + [0.4] * 7 + [0.5, 0.5]
    silent = ZOO["vgg-cifar"](scale=0.1, dropout=0).modules()
    assert all(m.p == 0 for m in silent if isinstance(m, torch.nn.Dropout))


def test_vgg11_width_and_names():
    model = ZOO["vgg11-cifar"](width=0.25)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convs] == [16, 32, 64, 64] + [128] * 4
    parts = {n.rsplit(".", 1)[0] for n, _ in model.named_parameters()}
    assert parts == {f"features.{i}" for i in (0, 1, 4, 5, 8, 9, 11, 12, 15, 16, 18, 19, 22, 23,
                                               25, 26)} | {"classifier"}  # fmt: skip


def test_resnet18_width_shapes_and_names():
    model = ZOO["resnet18-cifar"](width=0.125).eval()
    assert [layer[1].conv2.out_channels for layer in _stages(model)] == [8, 16, 32, 64]
    shapes = []
    for layer in _stages(model):
        layer.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape[1:])))
    model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "linear.bias"} <= names
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_mean"} <= names
    assert not any(n.startswith(("layer1.0.shortcut", "layer2.1.shortcut")) for n in names)
    assert len(names) == 122  # 20 convolutions, 20 norms of five entries, one linear layer


def _stages(model):
    return [model.layer1, model.layer2, model.layer3, model.layer4]


def test_resnet18_shortcuts_project_where_the_shape_changes():
    first, second = ZOO["resnet18-cifar"](width=0.125).layer2.eval()
    torch.nn.init.zeros_(first.conv2.weight)
    torch.nn.init.zeros_(second.conv2.weight)
    x = torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    projected = torch.einsum(
        "oi,bihw->bohw", first.shortcut[0].weight[:, :, 0, 0], x[..., ::2, ::2]
    )
    torch.testing.assert_close(
        first(x), (projected / (1 + first.shortcut[1].eps) ** 0.5).relu(), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(second(first(x)), first(x))


def test_lenet5_bn_norms_come_before_the_activation_and_follow_the_batch():
    model = ZOO["lenet5-bn"]()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert [m.num_features for m in norms] == [20, 50, 500]
    seen = {}
    for name in ("bn1", "bn2", "bn3"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _x, y, name=name: seen.update({name: y})
        )
    model.train()(torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert [tuple(y.shape[1:]) for y in seen.values()] == [(20, 24, 24), (50, 8, 8), (500,)]
    for y in seen.values():  # neither rectified nor pooled
        assert y.transpose(0, 1).flatten(1).mean(1).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["lenet5-bn", "vgg11-cifar"])
def test_dropout_before_the_last_layer(name):
    model = ZOO[name](dropout=0.5).eval()
    x = torch.rand(2, *INPUT_SHAPES[name], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), model(x))
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.5]
    torch.manual_seed(0)
    model.dropout.train()
    last = model.fc2 if name == "lenet5-bn" else model.classifier
    share = []
    last.register_forward_pre_hook(lambda _m, args: share.append((args[0] != 0).double().mean()))
    zeros = (model(x), model.dropout.eval(), model(x))
    assert not torch.equal(zeros[0], zeros[2])
    assert float(share[0] / share[1]) == pytest.approx(0.5, abs=0.1)
    assert all(m.p == 0 for m in ZOO[name]().modules() if isinstance(m, torch.nn.Dropout))


def test_lenet5_caffe_has_800_features():
    assert ZOO["lenet5-caffe"]().fc1.in_features == 800


def test_option_a_shortcut_keeps_the_input_in_the_middle_channels():
    block = ZOO["resnet20-cifar"]().layer2[0].eval()
    torch.nn.init.zeros_(block.conv2.weight)  # only the shortcut is left
    x = torch.rand(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    out = block(x)
    assert out[:, :8].abs().max() == 0
    assert out[:, 24:].abs().max() == 0
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2])


def test_log_probabilities_of_mnist_lenet_sum_to_one():
    out = ZOO["mnist-lenet"]().eval()(torch.zeros(2, 1, 32, 32))
    torch.testing.assert_close(out.exp().sum(1), torch.ones(2))


def test_vae_samples_only_with_noise():
    vae = ZOO["vae-mnist"]().eval()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    image, mean, log_variance = vae(x)
    torch.testing.assert_close(image, vae.decode(mean))
    noise = torch.ones_like(mean)
    torch.testing.assert_close(vae(x, noise)[0], vae.decode(mean + (log_variance / 2).exp()))
    assert {n.split(".")[0] for n in vae.state_dict()} == {"fc1", "fc21", "fc22", "fc3", "fc4"}


def test_gan_ranges():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 64, generator=generator)
    fake = ZOO["mlp-gan-generator"]()(z)
    assert fake.shape == (4, 784)
    assert fake.abs().max() <= 1
    real = ZOO["mlp-gan-discriminator"]()(fake)
    assert real.shape == (4, 1)
    assert ((real > 0) & (real < 1)).all()
    image = ZOO["dcgan-generator"]().eval()(torch.randn(2, 100, 1, 1, generator=generator))
    assert image.shape == (2, 3, 64, 64)
    assert ZOO["dcgan-discriminator"]().eval()(image).shape == (2, 1)


def test_digits_cnn_learns_the_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=generator)
    x, y = x[order], y[order]
    torch.manual_seed(0)
    model = ZOO["digits-cnn"]()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(5):
        for batch in torch.randperm(1437, generator=generator).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()
    accuracy = (model(x[1437:]).argmax(1) == y[1437:]).double().mean()
    assert accuracy >= 0.975
