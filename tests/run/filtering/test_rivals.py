"""The rivals of the chain: one that leaves the ground of its generator is left out."""

from types import SimpleNamespace

import torch
from torch import nn

from bnnkit.io.generators import open_generator
from bnnkit.run.filtering.rivals import _langevin
from bnnkit.spec import ModelSpec
from bnnkit.spec.generator import GeneratorSpec, parse_latent


class Fragile(nn.Module):
    """Images of a linear map, and NaN where the latent is far out."""

    def forward(self, z):
        images = torch.sigmoid(3.0 * z.repeat(1, 4)).reshape(z.shape[0], 1, 4, 4)
        far = (z.square().sum(1) > 60.0).reshape(-1, 1, 1, 1)
        return images.masked_fill(far, float("nan"))


class Outward(nn.Module):
    """A score that grows with the pixels without an end, and so pulls latents away."""

    def forward(self, images):
        return 3e3 * images.logit(1e-6).flatten(1).sum(1)


def test_langevin_that_makes_no_images_is_left_out(tmp_path):
    torch.jit.save(torch.jit.script(Fragile()), tmp_path / "g.pt")
    spec = GeneratorSpec(ModelSpec(str(tmp_path / "g.pt")), parse_latent("normal:4"), (0.0, 1.0))
    job = SimpleNamespace(
        generator=open_generator(spec),
        conditional=False,
        random=lambda purpose: torch.Generator().manual_seed(purpose),
        device=torch.device("cpu"),
        notes=[],
    )
    bank = SimpleNamespace(latents=torch.randn(10, 4, generator=job.random(0)))
    row = _langevin(job, bank, SimpleNamespace(score=Outward()), None, 10)
    assert row == {}
    (note,) = job.notes
    assert note.startswith("Langevin dynamics were left out: outputs that are NaN or infinite in")
