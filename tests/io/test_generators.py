"""Generators of every form give one image for one latent, and what is wrong is told in words."""

import pytest
import torch
from torch import nn

from bnnkit.errors import BnnkitError, DataError, FileRefusedError, StructureError, UsageError
from bnnkit.io.export import write_onnx, write_pt2, write_safetensors
from bnnkit.io.generators import open_generator
from bnnkit.spec import ModelSpec, Plan
from bnnkit.spec.generator import GeneratorSpec, parse_latent
from bnnkit.zoo import ZOO

ARCH = "bnnkit:mlp-gan-generator"
ARGS = {"latent": 6, "hidden": 16, "out_features": 24}
SHAPE = (1, 4, 6)


def net(seed=0):
    """Return a small generator whose outputs fill [-1, 1]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO["mlp-gan-generator"](**ARGS)
        for parameter in model.parameters():
            parameter.data *= 4
    return model.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generators")
    model = net()
    z = torch.randn(5, 6)
    torch.save(model.state_dict(), folder / "state.ckpt")
    torch.jit.save(torch.jit.script(model), folder / "script.pt")
    torch.jit.save(torch.jit.trace(model, z), folder / "trace.pt")
    write_pt2(model, z, folder / "dynamic.pt2")
    write_onnx(model, z, folder / "g.onnx")
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (z,)), folder / "static.pt2")
    plan = Plan(ModelSpec(arch=ARCH, arch_args=ARGS, input_shape=(6,)), method="train")
    write_safetensors(model, folder / "planned.safetensors", plan)
    return folder


def spec(path, latent="normal:6", out_range=(-1.0, 1.0), shape=SHAPE, **options):
    model = {k: options.pop(k) for k in ("arch", "arch_args", "trust_pickle") if k in options}
    file = None if path is None else str(path)
    return GeneratorSpec(
        ModelSpec(file, **model), parse_latent(latent), out_range, shape, **options
    )


def named(name):
    return {"arch": ARCH, "arch_args": ARGS} if name == "state.ckpt" else {}


FORMS = ["state.ckpt", "script.pt", "trace.pt", "dynamic.pt2", "static.pt2", "g.onnx",
         "planned.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_makes_the_same_images(files, name):
    generator = open_generator(spec(files / name, **named(name)))
    z = generator.draw(13, torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = (net()(z).reshape(13, *SHAPE) + 1) / 2
    images = generator.images(z)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.detach(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(generator.images(z[:1]).detach(), expected[:1], atol=1e-6, rtol=0)
    as_bytes = generator.bytes(z, batch_size=4)
    assert torch.equal(as_bytes, (expected * 255).round().to(torch.uint8))
    assert generator.shape == SHAPE
    assert (generator.module is None) == (name == "g.onnx")


@pytest.mark.parametrize("name", [n for n in FORMS if n != "g.onnx"])
def test_gradients_flow_to_the_latent(files, name):
    generator = open_generator(spec(files / name, **named(name)))
    z = generator.draw(3, torch.Generator().manual_seed(1)).requires_grad_()
    (slope,) = torch.autograd.grad(generator.images(z).square().sum(), z)
    again = z.detach().clone().requires_grad_()
    images = (net()(again) + 1) / 2
    (expected,) = torch.autograd.grad(images.square().sum(), again)
    torch.testing.assert_close(slope, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_latent_names_both_sizes(files, name):
    with pytest.raises(UsageError) as caught:
        open_generator(spec(files / name, latent="uniform:9", **named(name)))
    text = str(caught.value)
    assert "uniform:9" in text
    assert "Use --latent uniform:6." in text
    assert "\n" not in text


def test_a_convolution_asks_for_a_latent_with_axes():
    arch = {"arch": "bnnkit:dcgan-generator", "arch_args": {"latent": 7, "width": 4}}
    with pytest.raises(UsageError, match="Use --latent normal:7x1x1"):
        open_generator(spec(None, latent="normal:7", shape=None, **arch))


@pytest.mark.parametrize(
    ("out_range", "fits"),
    [((0.0, 1.0), "-1,1"), ((0.0, 255.0), "-1,1"), ("logits", "-1,1"), ((-0.5, 0.5), "-1,1")],
)
def test_a_wrong_range_names_what_was_found_and_what_fits(files, out_range, fits):
    with pytest.raises(DataError) as caught:
        open_generator(spec(files / "script.pt", out_range=out_range))
    assert "values from -1 to 1" in caught.value.found.replace("0.9999", "1").replace("1.000", "1")
    assert f"--out-range={fits}" in caught.value.hint


class Affine(nn.Module):
    """Images that follow the latent through a sigmoid, in any range."""

    def __init__(self, low=0.0, high=1.0, shape=(1, 4, 6)):
        super().__init__()
        self.lin = nn.Linear(6, 24)
        nn.init.normal_(self.lin.weight, 0, 4.0)
        self.low, self.high, self.shape = low, high, shape

    def forward(self, z):
        out = torch.sigmoid(self.lin(z)) * (self.high - self.low) + self.low
        return out.reshape(len(z), *self.shape)


def script(module, path):
    torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def write(source, tmp_path, name="make"):
    """Write a file that defines a generator, and name it."""
    path = tmp_path / "own.py"
    path.write_text("import torch\nfrom torch import nn\n" + source)
    return {"arch": f"{path}:{name}"}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_a_range_is_read_off_the_outputs_and_told(tmp_path, low, high):
    torch.manual_seed(0)
    path = script(Affine(float(low), float(high)), tmp_path / "g.pt")
    generator = open_generator(spec(path, out_range=None))
    assert generator.out_range == (low, high)
    assert any(f"read as [{low}, {high}]" in note for note in generator.notes)
    stated = open_generator(spec(path, out_range=(float(low), float(high))))
    z = generator.draw(5, torch.Generator().manual_seed(0))
    assert torch.equal(generator.bytes(z), stated.bytes(z))


def test_a_range_that_leaves_doubt_is_asked_for(tmp_path):
    path = script(Affine(-0.3, 0.7), tmp_path / "g.pt")
    with pytest.raises(UsageError, match="Say it with --out-range"):
        open_generator(spec(path, out_range=None))
    path = script(Affine(-0.05, 1.04), tmp_path / "h.pt")  # the mean of a Gaussian decoder
    generator = open_generator(spec(path, out_range=(0.0, 1.0)))
    assert any("cut to the stated range" in note for note in generator.notes)
    images = generator.images(generator.draw(50, torch.Generator().manual_seed(0)))
    assert images.min() == 0
    assert images.max() == 1


def test_logits_go_through_a_sigmoid(tmp_path):
    module = Affine(-9.0, 9.0)
    generator = open_generator(spec(script(module, tmp_path / "g.pt"), out_range="logits"))
    z = generator.draw(4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(generator.images(z), torch.sigmoid(module(z)))


def test_shapes(tmp_path):
    flat = script(net(), tmp_path / "flat.pt")
    with pytest.raises(UsageError, match="Say it with --shape"):
        open_generator(spec(flat, shape=None))
    with pytest.raises(DataError, match="24 numbers; an image of 3x4x4 has 48"):
        open_generator(spec(flat, shape=(3, 4, 4)))
    with pytest.raises(DataError, match="in another order"):
        open_generator(spec(script(Affine(), tmp_path / "g.pt"), shape=(1, 6, 4),
                            out_range=None))  # fmt: skip
    plain = open_generator(spec(script(Affine(), tmp_path / "p.pt"), shape=None, out_range=None))
    assert plain.shape == (1, 4, 6)


@pytest.mark.parametrize("stated", [None, (3, 4, 2)])
def test_channels_that_come_last_are_moved(tmp_path, stated):
    module = Affine(shape=(4, 2, 3))
    path = script(module, tmp_path / "g.pt")
    generator = open_generator(spec(path, shape=stated, out_range=(0.0, 1.0)))
    assert generator.shape == (3, 4, 2)
    z = generator.draw(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(generator.images(z), module(z).permute(0, 3, 1, 2))


FAULTS = """
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 24)
        nn.init.normal_(self.lin.weight, 0, 4.0)
    def forward(self, z):
        return torch.tanh(self.lin(z))
class Constant(Base):
    def forward(self, z):
        return torch.tanh(self.lin.bias * 50).expand(len(z), 24) * 1
class Deaf(Base):
    def forward(self, z):
        return torch.tanh(self.lin(torch.randn_like(z)))
class Noisy(Base):
    def forward(self, z):
        return torch.tanh(self.lin(z + torch.randn_like(z)))
class Batch(Base):
    def forward(self, z):
        return torch.tanh(self.lin(z - z.mean(0) * (len(z) > 1)))
class NaN(Base):
    def forward(self, z):
        return super().forward(z) / 0 * 0
class Complex(Base):
    def forward(self, z):
        return super().forward(z).to(torch.complex64)
class Bytes(Base):
    def forward(self, z):
        return (super().forward(z) * 100 + 100).to(torch.uint8)
class Squeezed(Base):
    def forward(self, z):
        return super().forward(z).squeeze()
class One(Base):
    def forward(self, z):
        return super().forward(z).sum(0)
class Rounded(Base):
    def forward(self, z):
        return super().forward(z).round()
class Pair(Base):
    def forward(self, z):
        return super().forward(z), z
"""


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "Constant",
            DataError,
            "on latents 'normal:6': 32 equal images of 32 different latents; it does not follow "
            "its latent. Check that 'normal:6' is what it was trained with (--latent), and that "
            "the checkpoint holds trained weights.",
        ),
        ("Deaf", DataError, "the same images from other latents"),
        ("NaN", DataError, "NaN or infinite"),
        ("Complex", DataError, "outputs of complex64"),
        ("Bytes", DataError, "outputs of uint8"),
        ("Squeezed", StructureError, "on one latent alone: an output of [24]"),
        ("One", StructureError, "an output of [24] for 32 latents"),
    ],
)
def test_what_is_no_generator_is_refused(tmp_path, name, error, message):
    with pytest.raises(error) as caught:
        open_generator(spec(None, **write(FAULTS, tmp_path, name)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Noisy", "draws numbers of its own"),
        ("Batch", "An image depends on its batch"),
        ("Rounded", "No gradient flows"),
    ],
)
def test_what_is_odd_is_told(tmp_path, name, note):
    generator = open_generator(spec(None, **write(FAULTS, tmp_path, name)))
    assert any(note in n for n in generator.notes)
    assert (generator.module is None) == (name == "Rounded")


def test_a_tuple_gives_its_first_tensor(tmp_path):
    assert open_generator(spec(None, **write(FAULTS, tmp_path, "Pair"))).shape == SHAPE


def test_batch_norm_answers_from_its_running_statistics(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24, affine=False), nn.Tanh())
    model(torch.randn(500, 6) * 3)
    model.train()
    torch.jit.save(torch.jit.script(model), tmp_path / "g.pt")  # saved in train mode
    generator = open_generator(spec(tmp_path / "g.pt"))
    assert not any("depends on its batch" in note for note in generator.notes)
    z = generator.draw(6, torch.Generator().manual_seed(0))
    model.eval()
    torch.testing.assert_close(
        generator.images(z).flatten(1).detach(), (model(z).detach() + 1) / 2
    )
    assert generator.module is not None
    generator.module.train()  # its owner goes on with the training
    torch.testing.assert_close(
        generator.images(z).flatten(1).detach(), (model(z).detach() + 1) / 2
    )


LATE = """
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 24)
        nn.init.normal_(self.lin.weight, 0, 4.0)
    def forward(self, z):  # sound near the origin, where nearly all latents are
        return self.wrong(torch.tanh(self.lin(z)), z.square().sum(1, keepdim=True) > 50)
class NaN(Base):
    def wrong(self, x, far):
        return x.masked_fill(far, torch.nan)
class Infinite(Base):
    def wrong(self, x, far):
        return x.masked_fill(far, torch.inf)
class Stops(Base):
    def wrong(self, x, far):
        if far.any():
            raise ValueError("too far out")
        return x
class Shrinks(Base):
    def wrong(self, x, far):
        return x[:, :20] if far.any() else x
"""


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("NaN", DataError, "outputs that are NaN or infinite in 1 of 4 images"),
        ("Infinite", DataError, "outputs that are NaN or infinite in 1 of 4 images"),
        ("Stops", StructureError, "ValueError: too far out; it stopped on a batch of 4 latents"),
        ("Shrinks", StructureError, "it stopped on a batch of 4 latents"),
    ],
)
@pytest.mark.parametrize("pixels", ["mean", "sampled"])
def test_what_goes_wrong_later_is_never_bytes(tmp_path, name, error, message, pixels):
    own = write(LATE, tmp_path, name)
    generator = open_generator(spec(None, pixels=pixels, **own))
    z = generator.draw(16, torch.Generator().manual_seed(0))
    z[9] = 5.0
    source = torch.Generator().manual_seed(0)
    assert len(generator.bytes(z[:8], generator=source, batch_size=4)) == 8
    with pytest.raises(error) as caught:
        generator.bytes(z, generator=source, batch_size=4)
    assert message in str(caught.value)


CONDITIONAL = """
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 24)
        self.emb = nn.Embedding(3, 24)
        self.hot = nn.Linear(3, 24)
        for p in self.parameters():
            nn.init.normal_(p, 0, 3.0)
class Whole(Base):
    def forward(self, z, y):
        return torch.tanh(self.lin(z) + self.emb(y))
class Hot(Base):
    def forward(self, z, y):
        return torch.tanh(self.lin(z) + self.hot(y))
class Deaf(Base):
    def forward(self, z, y):
        return torch.tanh(self.lin(z) + 0 * self.emb(y))
"""


@pytest.mark.parametrize("name", ["Whole", "Hot"])
def test_class_conditional_generators(tmp_path, name):
    own = write(CONDITIONAL, tmp_path, name)
    generator = open_generator(spec(None, classes=3, **own))
    sort = "one-hot" if name == "Hot" else "whole numbers"
    assert any(sort in note for note in generator.notes)
    z = generator.draw(6, torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    module = generator.module
    told = nn.functional.one_hot(y, 3).float() if name == "Hot" else y
    expected = (module(z, told).detach().reshape(6, *SHAPE) + 1) / 2
    torch.testing.assert_close(generator.images(z, y).detach(), expected)
    assert torch.equal(generator.bytes(z, y, batch_size=4), (expected * 255).round().byte())
    for wrong in (None, y[:5], y.float(), y + 1, y - 1):
        with pytest.raises(UsageError):
            generator.images(z, wrong)
    with pytest.raises(UsageError, match="--conditional N"):
        open_generator(spec(None, **own))


@pytest.mark.parametrize("name", ["Whole", "Hot"])
def test_conditional_forms(tmp_path, name):
    own = open_generator(spec(None, classes=3, **write(CONDITIONAL, tmp_path, name)))
    z, y = own.draw(4, torch.Generator().manual_seed(0)), torch.tensor([2, 1, 0, 2])
    told = own.meaning.encode(y)
    torch.jit.save(torch.jit.trace(own.module, (z, told)), tmp_path / "g.pt")
    batch = torch.export.Dim("batch")
    exported = torch.export.export(own.module, (z, told), dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(exported, tmp_path / "g.pt2")
    write_onnx(own.module, z, tmp_path / "g.onnx", labels=told)
    for name in ("g.pt", "g.pt2", "g.onnx"):
        found = open_generator(spec(tmp_path / name, classes=3))
        torch.testing.assert_close(found.images(z, y), own.images(z, y))
        with pytest.raises(UsageError, match="--conditional N"):
            open_generator(spec(tmp_path / name))


@pytest.mark.parametrize("count", [4, 5, 32, 33, 400])
def test_more_classes_than_a_generator_knows(tmp_path, count):
    with pytest.raises(UsageError) as caught:
        open_generator(spec(None, classes=count, **write(CONDITIONAL, tmp_path, "Whole")))
    assert f"{count} classes" in caught.value.what
    assert caught.value.why == "it knows the labels 0 to 2 only"
    assert caught.value.hint == "Use --conditional 3."


def test_labels_that_change_nothing_and_labels_that_are_not_taken(tmp_path, files):
    with pytest.raises(DataError, match="does not follow its labels"):
        open_generator(spec(None, classes=3, **write(CONDITIONAL, tmp_path, "Deaf")))
    for name in ("script.pt", "dynamic.pt2", "g.onnx"):
        with pytest.raises(UsageError, match="Leave --conditional out"):
            open_generator(spec(files / name, classes=3))
    generator = open_generator(spec(files / "script.pt"))
    z = generator.draw(2, torch.Generator())
    with pytest.raises(UsageError, match="without classes"):
        generator.images(z, torch.tensor([0, 1]))
    with pytest.raises(UsageError, match=r"it reads \[n, 6\]"):
        generator.images(z[:, :5])


def test_the_decoder_of_an_autoencoder(tmp_path):
    torch.manual_seed(0)
    vae = ZOO["vae-mnist"](latent=5, hidden=20, in_features=24).eval()
    vae.fc4.weight.data *= 60
    torch.save(vae.state_dict(), tmp_path / "vae.pt")
    args = {"latent": 5, "hidden": 20, "in_features": 24}
    found = spec(tmp_path / "vae.pt", "normal:5", (0.0, 1.0), arch="bnnkit:vae-mnist",
                 arch_args=args, pixels="sampled")  # fmt: skip
    generator = open_generator(found)
    assert any("its decoder is the generator" in note for note in generator.notes)
    z = generator.draw(3000, torch.Generator().manual_seed(0))
    z[1:] = z[0]
    mean = vae.decode(z[:1]).detach().reshape(SHAPE)
    torch.testing.assert_close(generator.images(z[:1])[0].detach(), mean)
    drawn = generator.bytes(z, generator=torch.Generator().manual_seed(1))
    assert set(drawn.unique().tolist()) <= {0, 255}
    torch.testing.assert_close(drawn.float().mean(0) / 255, mean, atol=0.04, rtol=0)
    again = generator.bytes(z, generator=torch.Generator().manual_seed(1), batch_size=3000)
    assert torch.equal(drawn, again)
    with pytest.raises(UsageError, match="no generator"):
        generator.bytes(z)
    with pytest.raises(UsageError, match="Use --latent normal:5"):
        open_generator(spec(tmp_path / "vae.pt", "normal:24", (0.0, 1.0),
                            arch="bnnkit:vae-mnist", arch_args=args))  # fmt: skip


def test_a_whole_autoencoder_without_a_decoder_of_its_own(tmp_path):
    vae = ZOO["vae-mnist"](latent=5, hidden=20, in_features=24).eval()
    torch.jit.save(torch.jit.trace(vae, torch.rand(2, 24)), tmp_path / "vae.pt")
    with pytest.raises(UsageError, match="a whole image"):
        open_generator(spec(tmp_path / "vae.pt", "normal:5", (0.0, 1.0)))


def test_data_of_another_shape_or_range_are_refused_with_both_sides(files):
    generator = open_generator(spec(files / "script.pt"))
    generator.check_against(SHAPE, data="faces", values=(0.0, 1.0))
    with pytest.raises(DataError, match="images of 1x4x6, and the data have 3x32x32"):
        generator.check_against((3, 32, 32), data="cifar10")
    with pytest.raises(DataError, match="Use --shape 1,6,4 if its outputs are flat"):
        generator.check_against((1, 6, 4), data="faces")
    with pytest.raises(DataError, match="Resize the data with --input-shape 1,4,6"):
        generator.check_against((24,), data="faces")
    with pytest.raises(DataError, match=r"from \[-1, 1\] to \[0, 1\], and the data go from -2"):
        generator.check_against(SHAPE, data="faces", values=(-2.0, 1.0))


def test_a_sampler_of_ones_own(tmp_path, files):
    (tmp_path / "prior.py").write_text(
        "import torch\ndef f(n, generator):\n    return torch.rand(n, 6, generator=generator)\n"
    )
    generator = open_generator(spec(files / "g.onnx", latent=f"{tmp_path}/prior.py:f"))
    assert generator.latent.shape == (6,)
    assert generator.images(generator.draw(3, torch.Generator())).shape == (3, *SHAPE)


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "page.pt").write_text("<!doctype html><html></html>")
    with pytest.raises(FileRefusedError):
        open_generator(spec(tmp_path / "page.pt"))
    torch.save(net(), tmp_path / "pickled.pt")
    with pytest.raises(BnnkitError, match="--arch"):
        open_generator(spec(tmp_path / "pickled.pt"))


def test_the_mnist_gan(shared):
    path = shared / "checkpoints" / "mnist-mlp-gan-G.ckpt"
    found = spec(path, "normal:64", shape=(1, 28, 28), arch=ARCH)
    generator = open_generator(found)
    z = generator.draw(200, torch.Generator().manual_seed(0))
    model = ZOO["mlp-gan-generator"]()
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    with torch.no_grad():
        expected = ((model(z) + 1) * 127.5).round().to(torch.uint8).reshape(200, 1, 28, 28)
    assert torch.equal(generator.bytes(z), expected)
    assert 15 < expected.float().mean() < 60  # white strokes on black
