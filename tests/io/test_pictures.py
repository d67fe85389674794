"""A grid of images on disk holds the bytes that were given."""

import numpy as np
import pytest
import torch
from PIL import Image

from bnnkit.io.pictures import write_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_has_its_place(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, channels, 5, 7), generator=generator, dtype=torch.uint8)
    write_grid(images, tmp_path / "grid.png", columns=4)
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (2 + 2 * 7, 2 + 4 * 9, 3)
    for i, image in enumerate(images):
        top, left = 2 + 7 * (i // 4), 2 + 9 * (i % 4)
        found = pixels[top : top + 5, left : left + 7]
        expected = image.expand(3, 5, 7).permute(1, 2, 0).numpy()
        assert np.array_equal(found, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
