"""Every reference architecture: shapes, published sizes, tracing, names of public checkpoints."""

import pytest
import torch

from bnnkit.zoo import INPUT_SHAPES, ZOO

CLASSIFIERS = [
    "digits-cnn",
    "lenet-300-100",
    "lenet5-caffe",
    "mlp-500-300",
    "mnist-lenet",
    "resnet20-cifar",
    "resnet32-cifar",
    "resnet44-cifar",
    "resnet56-cifar",
    "vgg-cifar",
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
        ("resnet20-cifar", 269_722),  # 0.27 M, He et al. table 6, option A
        ("resnet32-cifar", 464_154),  # 0.46 M
        ("resnet44-cifar", 658_586),  # 0.66 M
        ("resnet56-cifar", 853_018),  # 0.85 M
        ("vgg-cifar", 14_991_946),
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
