"""What makes images: the table agrees with the modules, sizes follow their arguments."""

import math

import pytest
import torch

from bnnkit.zoo import GENERATIVE, INPUT_SHAPES, ZOO


@pytest.mark.parametrize("name", sorted(GENERATIVE))
def test_the_table_agrees_with_the_modules(name):
    entry, model = GENERATIVE[name], ZOO[name]().eval()
    x = torch.rand(2, *INPUT_SHAPES[name], generator=torch.Generator().manual_seed(0))
    if entry.task == "autoencoder":
        mean, log_variance = model.encode(x)
        assert mean.shape == log_variance.shape
        images = model.decode(mean)
        assert images.min() >= 0
        assert entry.image == INPUT_SHAPES[name]
    else:
        images = model(x)
        assert images.min() >= -1
        size = math.prod(entry.image) if entry.sized_by == "in_features" else entry.image[0]
        opponent = ZOO[entry.discriminator](**{entry.sized_by: size}).eval()
        assert opponent(images).shape == (2, 1)
    assert images.max() <= 1
    assert images[0].numel() == math.prod(entry.image)


def test_dcgan32_sizes():
    model = ZOO["dcgan32-generator"](latent=5, width=8, out_channels=1).eval()
    assert model(torch.zeros(3, 5)).shape == (3, 1, 32, 32)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(32, 16), (16, 8), (8, 1)]
    score = ZOO["dcgan32-discriminator"](in_channels=1, width=8)
    assert not [m for m in score.modules() if "BatchNorm" in type(m).__name__]
    assert score(torch.zeros(3, 1, 32, 32)).shape == (3, 1)


def test_the_convolutional_autoencoder():
    vae = ZOO["vae-conv"](latent=3, width=4, in_channels=2, size=(28, 20)).eval()
    x = torch.rand(5, 2, 28, 20, generator=torch.Generator().manual_seed(0))
    image, mean, log_variance = vae(x)
    assert image.shape == x.shape
    assert mean.shape == log_variance.shape == (5, 3)
    torch.testing.assert_close(image, vae.decode(mean))
    noise = torch.ones_like(mean)
    torch.testing.assert_close(vae(x, noise)[0], vae.decode(mean + (log_variance / 2).exp()))
    assert ZOO["vae-conv"](size=32)(torch.zeros(2, 1, 32, 32))[0].shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="no multiple of 4"):
        ZOO["vae-conv"](size=30)
