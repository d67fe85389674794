"""`mh-filter` end to end on digits: judged from its files, against plain numpy."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import bnnkit
from bnnkit.errors import ArtefactError, DataError, TrainingError, UsageError
from bnnkit.io.data import load_data
from bnnkit.run.filtering.judges import FeatureSource
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.generator import GeneratorSpec, parse_latent
from bnnkit.spec.mh import MhConfig

LATENT, CLASSES, PIXELS = 12, 10, "pixels, PCA-50"

CODE = """
import torch
from torch import nn

class Gaussian(nn.Module):
    # x = mean + z A, one Gaussian for each class
    def __init__(self, channels=1):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10, 64 * channels))
        self.register_buffer("axes", torch.zeros(10, 12, 64 * channels))
        self.channels = channels

    def forward(self, z):
        x = self.mean[0] + z @ self.axes[0]
        return x.clamp(0.0, 1.0).reshape(-1, self.channels, 8, 8)

class Told(Gaussian):
    def forward(self, z, labels):
        x = self.mean[labels] + (z[:, :, None] * self.axes[labels]).sum(1)
        return x.clamp(0.0, 1.0).reshape(-1, 1, 8, 8)

class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Gaussian()

    def encode(self, x):
        a = self.inner.axes[0]
        z = (x.flatten(1) - self.inner.mean[0]) @ torch.linalg.pinv(a)
        return z, torch.zeros_like(z)

    def decode(self, z):
        return self.inner(z)

    def forward(self, x):
        return self.decode(self.encode(x)[0])

def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

def critic():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))

def probability():
    return nn.Sequential(critic(), nn.Sigmoid())

def sampler(n, generator):
    return torch.randn(n, 12, generator=generator)
"""


def small(**more):
    """A configuration that runs in a second."""
    args = dict(
        samples=300, bank=2000, held=200, epochs=2.0, width=4, metric_samples=300,
        chain_length=40, controls=(), formats=(), device="cpu", threads=1,
    )  # fmt: skip
    return MhConfig(**{**args, **more})


def fit_gaussian(x, scale=1.5):
    """Mean and axes of a Gaussian around images `[n, d]`: too wide, and moved along its length."""
    mean = x.mean(0)
    _, s, v = torch.linalg.svd(x - mean, full_matrices=False)
    axes = v[:LATENT] * s[:LATENT, None] / len(x) ** 0.5
    return mean + axes[0], scale * axes


def load_code(path):
    spec = importlib.util.spec_from_file_location("mh_zoo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


class Zoo:
    """A generator in every form, class by class, as an autoencoder, and some classifiers."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "gen.py").write_text(CODE)
        self.code = load_code(folder / "gen.py")
        data = load_data(DataSpec("digits", mean=(0.0,), std=(1.0,)))
        x = torch.cat([b for b, _ in data.train.batches(2000)]).flatten(1)
        self.x, self.labels = x, data.train.labels
        self.plain, self.told = self.code["Gaussian"]().eval(), self.code["Told"]().eval()
        self.plain.mean[0], self.plain.axes[0] = fit_gaussian(x)
        for c in range(CLASSES):
            self.told.mean[c], self.told.axes[c] = fit_gaussian(x[self.labels == c])

    def file(self, form):
        path = self.folder / f"gen{form}"
        if path.exists():
            return path
        z = torch.zeros(3, LATENT)
        batch = {0: torch.export.Dim("n")}
        if form == ".pt":
            torch.jit.trace(self.plain, z).save(path)
        elif form == ".pt2":
            program = torch.export.export(self.plain, (z,), dynamic_shapes=(batch,))
            torch.export.save(program, path)
        elif form == ".onnx":
            torch.onnx.export(
                self.plain, (z,), path, dynamo=True, dynamic_shapes=(batch,), verbose=False,
                external_data=True,
            )  # fmt: skip
        elif form == ".told.pt":
            torch.jit.trace(self.told, (z, torch.tensor([0, 1, 2]))).save(path)
        else:
            torch.save(self.plain.state_dict(), path)
        return path

    def spec(self, form=".pt", latent="normal:12", **more):
        arch = f"{self.folder / 'gen.py'}:Gaussian" if form == ".pth" else None
        model = ModelSpec(file=str(self.file(form)), arch=arch)
        return GeneratorSpec(model, parse_latent(latent), (0.0, 1.0), **more)

    def vae(self, **more):
        module = self.code["Vae"]()
        module.inner.load_state_dict(self.plain.state_dict())
        torch.save(module.state_dict(), self.folder / "vae.pth")
        model = ModelSpec(file=str(self.folder / "vae.pth"), arch=f"{self.folder / 'gen.py'}:Vae")
        return GeneratorSpec(model, parse_latent("normal:12"), (0.0, 1.0), **more)

    def trained(self, name, targets="class"):
        """A classifier of digits, or a critic of digits against the generator, in two forms."""
        path = self.folder / f"{name}.pth"
        factory = f"{self.folder / 'gen.py'}:{name}"
        if not path.exists():
            with torch.random.fork_rng(), torch.enable_grad():
                torch.manual_seed(0)
                net, fake = self.code[name](), self.plain(torch.randn(len(self.x), LATENT))
                images = self.x.reshape(-1, 1, 8, 8)
                optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
                for _ in range(30):
                    if targets == "class":
                        loss = nn.functional.cross_entropy(net(images), self.labels)
                    else:
                        out = torch.cat([net(images), net(fake)]).squeeze(1)
                        truth = (torch.arange(len(out)) < len(images)).float()
                        bce = nn.functional.binary_cross_entropy
                        loss = bce(out if name == "probability" else out.sigmoid(), truth)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            torch.save(net.state_dict(), path)
            torch.jit.script(net.eval()).save(path.with_suffix(".pt"))
        return ModelSpec(file=str(path), arch=factory)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Code of these tests is remembered in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def zoo(home, tmp_path_factory):
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def run(zoo, tmp_path_factory):
    """The full run, with its page and its ONNX files, on a copy of the file that then is gone."""
    folder = tmp_path_factory.mktemp("run")
    gone = folder / "weights.pth"
    gone.write_bytes(zoo.file(".pth").read_bytes())
    spec = zoo.spec(".pth")
    spec = GeneratorSpec(
        ModelSpec(file=str(gone), arch=spec.model.arch), spec.latent, spec.out_range
    )
    config = small(formats=("onnx",), controls=("drs", "sir", "ddls"), samples=400, bank=3000)
    report = bnnkit.mh_filter(spec, "digits", config, out=folder / "out")
    gone.unlink()
    return folder / "out", report


@pytest.fixture(autouse=True)
def _short_page(run, monkeypatch):
    """Only the full run draws its page, which takes longer than all the rest."""
    monkeypatch.setattr("bnnkit.run.mh_filter.render_html", lambda report: "<!doctype html>")


def filtered(spec, tmp_path, config=None, data="digits", **more):
    """Run, and return the report and the arrays of the samples."""
    out = tmp_path / "out"
    report = bnnkit.mh_filter(spec, data, config or small(), out=out, force=True, **more)
    with np.load(out / "samples.npz") as found:
        return report, dict(found)


def images_of(module, latents, *labels):
    """Images of latents by numpy, as bytes."""
    mean, axes = (t.double().numpy() for t in (module.mean, module.axes))
    rows = labels[0] if labels else np.zeros(len(latents), int)
    x = mean[rows] + np.einsum("nk,nkd->nd", latents.astype(float), axes[rows])
    return np.clip(x, 0, 1).reshape(-1, 1, 8, 8) * 255


def fid(report, delivered=True):
    rows = report.sections["samplers"]
    row = next(r for r in rows if (r["delivered"] if delivered else r["name"] == "raw"))
    return row["metrics"][PIXELS]["fid"]


# --- what a run delivers --------------------------------------------------------------------


def test_filtered_samples_are_closer_to_the_data(run):
    _, report = run
    rows = {row["name"]: row["metrics"][PIXELS]["fid"] for row in report.sections["samplers"]}
    assert rows["floor"] < rows["independent MH"] < rows["raw"]
    assert set(rows) == {
        "raw", "independent MH", "rejection (DRS)", "importance resampling (SIR)",
        "Langevin (DDLS)", "floor",
    }  # fmt: skip
    assert report.sections["verdict"][0].startswith(f"The Frechet distance in {PIXELS} falls")


def test_every_image_is_the_generators_image_of_its_latent(run, zoo):
    folder, report = run
    with np.load(folder / "samples.npz") as found:
        assert set(found) == {"samples", "latents", "bank_index"}
        samples, latents, rows = (found[key] for key in ("samples", "latents", "bank_index"))
    assert samples.dtype == np.uint8
    assert samples.shape == (400, 1, 8, 8)
    assert latents.dtype == np.float32
    assert latents.shape == (400, LATENT)
    exact = images_of(zoo.plain, latents)
    assert np.abs(samples - exact).max() <= 0.5 + 1e-3  # rounded, and nothing else
    real = {bytes(row) for row in (zoo.x * 255).round().to(torch.uint8).numpy()}
    assert not any(bytes(row) in real for row in samples)
    # one row of the bank is one latent, and the other way round
    assert rows.min() >= 0
    assert rows.max() < report.sections["bank"]["size"] == 3000
    pairs = {(int(row), bytes(z)) for row, z in zip(rows, latents, strict=True)}
    assert len(pairs) == len({row for row, _ in pairs}) == len({z for _, z in pairs})
    assert len(pairs) / 400 == pytest.approx(report.sections["chain"]["unique_share"])


def test_sampler_needs_only_its_folder(run, zoo):
    folder, _ = run
    sampler = bnnkit.load(folder)
    state = torch.random.get_rng_state()

    def draw(seed):
        return sampler.sample(40, generator=torch.Generator().manual_seed(seed), bank=500)

    first, again, other = draw(1), draw(1), draw(2)
    assert first.dtype == torch.uint8
    assert first.shape == (40, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(sampler.sample(5), sampler(5))
    assert torch.equal(state, torch.random.get_rng_state())
    made = (first.flatten(1).double() / 255 - zoo.plain.mean[0]) @ torch.linalg.pinv(
        zoo.plain.axes[0].double()
    )
    assert made.std() == pytest.approx(1, abs=0.35)  # these are images of normal latents
    with pytest.raises(UsageError, match="0 images"):
        sampler.sample(0)


def test_sampler_gives_what_the_run_gave(run, zoo):
    """The scores that it was saved with are those of the run: it tells real from raw alike."""
    folder, report = run
    sampler = bnnkit.load(folder)
    from bnnkit.methods.mh.scores import score_images

    z = torch.randn(1500, LATENT, generator=torch.Generator().manual_seed(5))
    fake = sampler.generator.bytes(z)
    scores = score_images(sampler.score, fake)
    starts = sampler.starts.double()
    wins = (starts[:, None] > scores[None, :]).double().mean()
    assert 100 * wins == pytest.approx(report.sections["discriminator"]["auc"].value, abs=6)


def test_onnx_files_agree_with_the_samples(run):
    folder, report = run
    with np.load(folder / "samples.npz") as found:
        samples, latents = found["samples"], found["latents"]

    def answer(name, x):
        session = onnxruntime.InferenceSession(
            folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
        )
        return session.run(None, {session.get_inputs()[0].name: x})[0]

    images = answer("generator", latents)
    assert images.shape == samples.shape
    assert np.abs(images * 255 - samples).max() <= 0.5 + 1e-3
    x = samples.astype(np.float32) / 255
    with torch.no_grad():
        ours = bnnkit.load(folder).score(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(answer("discriminator", x).reshape(-1), ours, atol=1e-4)
    assert [check["passed"] for check in report.sections["checks"]] == [True, True]


def test_report_holds_what_was_done(run):
    folder, _ = run
    body = json.loads((folder / "report.json").read_text())
    assert body["command"] == "mh-filter"
    sections = (
        "model", "generator", "data", "splits", "method", "discriminator", "reliability", "bank",
        "chain", "filtered", "bound", "extractors", "samplers", "length_curve", "verdict",
        "checks", "grids",
    )  # fmt: skip
    assert all(body[key] for key in sections)
    phases = body["cost"]["phases"]
    assert set(phases) == {
        "open", "generate", "train", "score", "choose", "chains", "metrics", "rivals", "files",
        "page", "other",
    }  # fmt: skip
    for kind in ("cpu", "wall"):
        assert sum(row[kind] for row in phases.values()) == pytest.approx(body["cost"][kind])
    assert phases["train"]["cpu"] == pytest.approx(body["discriminator"]["seconds"])
    assert body["bank"]["seconds"] <= phases["generate"]["cpu"]
    assert body["splits"]["fit"] + body["splits"]["held"] == body["data"]["n_train"]
    assert 50 < body["discriminator"]["auc"]["value"] < 100
    chain = body["chain"]
    assert 0 < chain["acceptance"] < 1
    assert chain["tv_estimate"] == pytest.approx(1 - chain["acceptance_from_real"])
    assert body["bound"]["vacuous"] is (body["bound"]["bound"] > 1)
    assert [row["length"] for row in body["length_curve"]] == [1, 2, 5, 10, 20, 40]
    unmoved = [row["unmoved_share"] for row in body["length_curve"]]
    assert unmoved == sorted(unmoved, reverse=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "samples.npz", "samples.png", "samples-raw.png", "discriminator.safetensors",
        "discriminator.onnx", "generator.onnx", "model.safetensors", "plan.json", "sampler.json",
        "report.json", "report.html",
    }  # fmt: skip
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_every_figure_is_documented(run):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## mh-filter")
    told, _, _ = told.partition("## mh-proposal")
    body = run[1].to_dict()
    sections = ("generator", "splits", "discriminator", "bank", "chain", "filtered", "bound")
    for name in sections:
        assert f"`{name}`" in told
        for key in body[name]:
            assert f"`{key}`" in told, f"{name}.{key}"
    for name, rows in (("samplers", body["samplers"]), ("length_curve", body["length_curve"])):
        for key in {key for row in rows for key in row}:
            assert key in told.partition(f"`{name}`")[2].partition("\n")[0], f"{name}.{key}"
    for phase in body["cost"]["phases"]:
        assert f"| `{phase}` |" in told


def test_one_seed_is_one_result(zoo, tmp_path):
    _, first = filtered(zoo.spec(), tmp_path)
    _, again = filtered(zoo.spec(), tmp_path)
    _, other = filtered(zoo.spec(), tmp_path, small(seed=1))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert not np.array_equal(first["latents"], other["latents"])


def test_a_trace_changes_nothing(zoo, tmp_path):
    _, plain = filtered(zoo.spec(), tmp_path)
    report, traced = filtered(zoo.spec(), tmp_path, small(trace=True))
    np.testing.assert_array_equal(plain["samples"], traced["samples"])
    rows = report.sections["trace"]
    steps = report.sections["discriminator"]["steps"]
    assert rows[0]["step"] == 1
    assert rows[-1]["step"] == steps
    assert all(row["runs"] == 5 and row["fid"][PIXELS]["sd"] > 0 for row in rows)
    assert rows[-1]["auc"] > rows[0]["auc"]
    with pytest.raises(UsageError, match="--trace"):
        small(trace=True, discriminator="features")


# --- generators -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [".pt2", ".onnx", ".pth"])
def test_every_form_gives_the_same_samples(zoo, tmp_path, form):
    _, script = filtered(zoo.spec(".pt"), tmp_path)
    _, found = filtered(zoo.spec(form), tmp_path)
    np.testing.assert_array_equal(found["bank_index"], script["bank_index"])
    np.testing.assert_array_equal(found["samples"], script["samples"])
    sampler = bnnkit.load(tmp_path / "out")
    assert sampler.sample(3, bank=200).shape == (3, 1, 8, 8)


def test_fresh_weights_are_those_of_the_seed(tmp_path):
    arch = {"latent": 8, "hidden": 16, "out_features": 64}
    model = ModelSpec(arch="bnnkit:mlp-gan-generator", arch_args=arch)
    spec = GeneratorSpec(model, parse_latent("normal:8"), (-1.0, 1.0), (1, 8, 8))
    _, found = filtered(spec, tmp_path, small(seed=5))
    sampler = bnnkit.load(tmp_path / "out")
    again = sampler.generator.bytes(torch.from_numpy(found["latents"]))
    np.testing.assert_array_equal(again.numpy(), found["samples"])


def test_classes_have_their_own_chains(zoo, tmp_path):
    spec = zoo.spec(".told.pt", classes=CLASSES)
    _, found = filtered(spec, tmp_path, small(samples=500, bank=4000))
    labels = found["labels"]
    exact = images_of(zoo.told, found["latents"], labels)
    assert np.abs(found["samples"] - exact).max() <= 0.5 + 1e-3
    wanted = torch.bincount(zoo.labels).double() * 500 / len(zoo.labels)
    assert np.abs(np.bincount(labels, minlength=CLASSES) - wanted.numpy()).max() < 1
    sampler = bnnkit.load(tmp_path / "out")
    with pytest.raises(UsageError, match="the class None"):
        sampler.sample(3)
    sevens = sampler.sample(20, label=7, bank=400).flatten(1).double() / 255
    nearest = torch.cdist(sevens, zoo.told.mean.double()).argmin(1)
    assert (nearest == 7).double().mean() > 0.6


def test_classes_walk_in_the_same_shares(zoo, tmp_path, monkeypatch):
    from bnnkit.run.filtering import filtered as mh_filtered
    from bnnkit.run.filtering import markov as mh_markov

    seen, walk = {}, mh_markov.latent_chains

    def chains(draw, score, starts, *args, **more):
        seen.setdefault("starts", starts)
        return walk(draw, score, starts, *args, **more)

    def stepwise(job, bank, chosen, reference):
        seen.update(labels=job.held.labels, scores=chosen.held)
        return mh_markov.step_by_step(job, bank, chosen, reference)

    monkeypatch.setattr(mh_markov, "latent_chains", chains)
    monkeypatch.setattr(mh_filtered, "step_by_step", stepwise)
    spec = zoo.spec(".told.pt", classes=CLASSES)
    config = small(proposal="walk", chain_length=6, samples=100, bank=1000)
    _, found = filtered(spec, tmp_path, config)
    for label, start in zip(found["labels"], seen["starts"], strict=True):
        assert start in seen["scores"][seen["labels"] == label]  # a real image of that class
    wanted = torch.bincount(zoo.labels).double() * 100 / len(zoo.labels)
    assert np.abs(np.bincount(found["labels"], minlength=CLASSES) - wanted.numpy()).max() < 1
    exact = images_of(zoo.told, found["latents"], found["labels"])
    assert np.abs(found["samples"] - exact).max() <= 0.5 + 1e-3


def test_classes_must_be_as_many(zoo, tmp_path):
    with pytest.raises(DataError, match="a generator of 3 classes and data of 10"):
        filtered(zoo.spec(".told.pt", classes=3), tmp_path)


def test_a_class_without_a_start_is_refused_at_once(zoo, tmp_path, monkeypatch):
    labels = np.where(np.arange(600) < 3, np.arange(600) + 1, 0)
    labels[3:10] = np.arange(3, 10)
    images = (zoo.x[:600].reshape(-1, 1, 8, 8) * 255).round().to(torch.uint8).numpy()
    np.savez(tmp_path / "rare.npz", images=images, labels=labels)
    monkeypatch.setattr("bnnkit.run.filtering.job.Job.make", None)  # nothing is made before
    with pytest.raises(DataError, match=r"none of 160 held-out images is of the class .*--held"):
        filtered(zoo.spec(".told.pt", classes=CLASSES), tmp_path, data=str(tmp_path / "rare.npz"))


def test_some_classes_for_a_generator_without_labels(zoo, tmp_path):
    report, _ = filtered(zoo.spec(), tmp_path, data=DataSpec("digits", classes=("3", "5")))
    assert report.sections["data"]["n_train"] < 0.3 * len(zoo.x)
    assert report.sections["class_names"] == []  # no judge counts classes here


def test_pixels_of_a_decoder(zoo, tmp_path):
    _, mean = filtered(zoo.vae(), tmp_path)
    assert np.abs(mean["samples"] - images_of(zoo.plain, mean["latents"])).max() <= 0.5 + 1e-3
    _, drawn = filtered(zoo.vae(pixels="sampled"), tmp_path)
    assert set(np.unique(drawn["samples"])) == {0, 255}
    p = images_of(zoo.plain, drawn["latents"]) / 255
    on = drawn["samples"] / 255
    assert np.all(on[p == 0] == 0)
    assert np.all(on[p == 1] == 1)
    assert on.mean() == pytest.approx(p.mean(), abs=0.02)
    with pytest.raises(UsageError, match="sampled pixels"):
        filtered(zoo.vae(pixels="sampled"), tmp_path, small(proposal="walk"))


def test_latents_of_ones_own(zoo, tmp_path):
    source = f"{zoo.folder / 'gen.py'}:sampler"
    _, own = filtered(zoo.spec(latent=source), tmp_path)
    _, named = filtered(zoo.spec(), tmp_path)
    np.testing.assert_array_equal(own["samples"], named["samples"])
    filtered(zoo.spec(latent=source), tmp_path)
    with pytest.raises(UsageError, match="latent="):
        bnnkit.load(tmp_path / "out")
    sampler = bnnkit.load(tmp_path / "out", latent=source)
    assert len(sampler.sample(3, bank=200)) == 3


@pytest.mark.parametrize(("latent", "low"), [("uniform:12", -1), ("unit:12", 0)])
def test_uniform_latents(zoo, tmp_path, latent, low):
    _, found = filtered(zoo.spec(latent=latent), tmp_path)
    assert low <= found["latents"].min() < low + 0.05
    assert 0.95 < found["latents"].max() <= 1
    with pytest.raises(UsageError, match=latent):
        filtered(zoo.spec(latent=latent), tmp_path, small(proposal="walk"))


# --- data -----------------------------------------------------------------------------------


def rgb_images(zoo, count):
    x = zoo.x[:count].reshape(-1, 1, 8, 8)
    return (torch.cat([x, 0.5 * x, 1 - x], 1) * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_colour_images_without_classes(zoo, tmp_path, kind):
    from PIL import Image

    images = rgb_images(zoo, 500)
    if kind == "npz":
        np.savez(tmp_path / "rgb.npz", images=images)
        data = str(tmp_path / "rgb.npz")
    else:
        (tmp_path / "rgb").mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "rgb" / f"{i}.png")
        data = str(tmp_path / "rgb")
    net = zoo.code["Gaussian"](channels=3).eval()
    flat = torch.from_numpy(images).double().flatten(1) / 255
    net.mean[0], net.axes[0] = fit_gaussian(flat.float())
    torch.jit.trace(net, torch.zeros(3, LATENT)).save(tmp_path / "rgb.pt")
    spec = GeneratorSpec(ModelSpec(file=str(tmp_path / "rgb.pt")), parse_latent("normal:12"))
    report, found = filtered(spec, tmp_path, data=data)
    assert found["samples"].shape == (300, 3, 8, 8)
    assert report.sections["generator"]["shape"] == [3, 8, 8]
    assert bnnkit.load(tmp_path / "out").sample(2, bank=200).shape == (2, 3, 8, 8)


def test_both_sides_of_a_mismatch_are_named(zoo, tmp_path):
    np.savez(tmp_path / "big.npz", images=np.zeros((400, 1, 9, 9), np.uint8))
    with pytest.raises(DataError, match=r"1x8x8.*1x9x9"):
        filtered(zoo.spec(), tmp_path, data=str(tmp_path / "big.npz"))
    with pytest.raises(DataError, match="60 of them"):
        filtered(zoo.spec(), tmp_path, data=DataSpec("digits", limit=60))
    assert not (tmp_path / "out").exists()


# --- discriminators -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", "ub"])
def test_losses(zoo, tmp_path, loss):
    report, _ = filtered(zoo.spec(), tmp_path, small(loss=loss, epochs=6.0, lr=3e-3))
    assert report.sections["discriminator"]["loss"] == loss
    assert report.sections["discriminator"]["auc"].value > 55
    assert fid(report) < fid(report, delivered=False)
    assert len(bnnkit.load(tmp_path / "out").sample(2, bank=200)) == 2


@pytest.mark.parametrize("way", ["platt", "isotonic", "none", "own temperature"])
def test_calibrations(zoo, tmp_path, way):
    more = {"temperature": 2.0} if way == "own temperature" else {"calibrate": way}
    report, found = filtered(zoo.spec(), tmp_path, small(**more))
    temperature = report.sections["discriminator"]["temperature"]
    assert len(report.sections["discriminator"]["candidates"]) == 1
    known = {"none": 1.0, "own temperature": 2.0, "isotonic": None}
    if way in known:
        assert temperature == known[way]
    sampler = bnnkit.load(tmp_path / "out")
    assert (sampler.score.knots is not None) == (way == "isotonic")
    assert len(sampler.sample(2, bank=200)) == 2
    assert len(found["samples"]) == 300


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("features", "torch"),
        ("combined", "torchscript"),
        pytest.param("features", "torchscript", marks=pytest.mark.slow),
        pytest.param("combined", "torch", marks=pytest.mark.slow),
    ],
)
def test_features_of_a_classifier(zoo, tmp_path, kind, form):
    model = zoo.trained("classifier")
    if form == "torchscript":
        model = ModelSpec(file=str(zoo.folder / "classifier.pt"))
    report, _ = filtered(
        zoo.spec(), tmp_path, small(discriminator=kind, formats=("onnx",), controls=("ddls",)),
        features=FeatureSource(model),
    )  # fmt: skip
    first, second = report.sections["extractors"]
    assert (first["own"], second["own"]) == (True, False)
    assert fid(report) < fid(report, delivered=False)
    row = report.sections["samplers"][1]
    assert len(row["classes"]) == 10
    assert sum(row["classes"]) == pytest.approx(100)
    assert row["metrics"][first["name"]]["is"]["value"] > 3
    assert "features that the filter itself used" in report.sections["verdict"][0]
    assert report.sections["filtered"]["fid"] == row["metrics"][first["name"]]["fid"]
    named = {row["name"] for row in report.sections["samplers"]}
    gradients = form == "torch"
    assert ("Langevin (DDLS)" in named) == gradients
    assert any("Langevin" in n for n in report.sections["model"]["notes"]) != gradients
    served = {f["file"]: f["inputs"] for f in report.sections["files"]}
    any_batch = {"discriminator.onnx": ["input float32 [batch, 1, 8, 8]"]}
    assert served == (any_batch if gradients else {})
    assert (tmp_path / "out" / "discriminator.onnx").exists() == gradients
    sampler = bnnkit.load(tmp_path / "out")
    assert len(sampler.sample(2, bank=200)) == 2


@pytest.mark.parametrize("name", ["critic", "probability"])
@pytest.mark.parametrize("form", ["torch", "torchscript"])
def test_the_owners_discriminator(zoo, tmp_path, name, form):
    model = zoo.trained(name, "real")
    if form == "torchscript":
        model = ModelSpec(file=str(zoo.folder / f"{name}.pt"))
    report, _ = filtered(
        zoo.spec(), tmp_path, small(discriminator="owner"),
        owner=FeatureSource(model, mean=None, std=None),
    )  # fmt: skip
    kind = "probabilities" if name == "probability" else "logits"
    assert f"The owner's discriminator gives {kind}." in report.sections["model"]["notes"]
    tried = {row["name"] for row in report.sections["discriminator"]["candidates"]}
    refit = {"last layer refitted"} if form == "torch" else set()
    assert tried == {"as it is"} | refit
    assert report.sections["discriminator"]["steps"] is None
    assert fid(report) < fid(report, delivered=False)
    assert len(bnnkit.load(tmp_path / "out").sample(2, bank=200)) == 2


def test_a_classifier_is_no_discriminator(zoo, tmp_path):
    source = FeatureSource(zoo.trained("classifier"), mean=None, std=None)
    with pytest.raises(DataError, match=r"outputs of shape \[10\] an image"):
        filtered(zoo.spec(), tmp_path, small(discriminator="owner"), owner=source)
    critic = FeatureSource(zoo.trained("critic", "real"), mean=None, std=None)
    with pytest.raises(DataError, match=r"probabilities lie in \[0, 1\]"):
        filtered(
            zoo.spec(), tmp_path, small(discriminator="owner", owner_output="probability"),
            owner=critic,
        )  # fmt: skip
    with pytest.raises(UsageError, match="--features FILE"):
        filtered(zoo.spec(), tmp_path, small(discriminator="features"))


# --- proposals ------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", ["walk", "fresh"])
def test_proposals_of_each_step(zoo, tmp_path, proposal):
    more = {"bank": 0} if proposal == "fresh" else {"proposal": "walk"}
    report, found = filtered(zoo.spec(), tmp_path, small(chain_length=8, samples=100, **more))
    assert np.all(found["bank_index"] == -1)
    exact = images_of(zoo.plain, found["latents"])
    assert np.abs(found["samples"] - exact).max() <= 0.5 + 1e-3
    assert len(np.unique(found["latents"], axis=0)) == 100
    assert 0.3 < report.sections["chain"]["acceptance"] < 1
    assert len(bnnkit.load(tmp_path / "out").sample(2, bank=200)) == 2


def test_proposals_through_an_encoder(zoo, tmp_path):
    config = small(proposal="encoder", chain_length=4, samples=100, step=0.6)
    report, found = filtered(zoo.vae(), tmp_path, config)
    exact = images_of(zoo.plain, found["latents"])
    assert np.abs(found["samples"] - exact).max() <= 0.5 + 1e-3
    notes = " ".join(report.sections["model"]["notes"])
    assert "autoencoder's own encoder" in notes
    assert {row["name"] for row in report.sections["samplers"]} >= {
        "encoder proposals, all accepted",
        "encoder MH, continued as its sampler does",
    }
    assert not any("temperature" in line for line in report.sections["verdict"])
    report, _ = filtered(zoo.spec(), tmp_path, config)  # not an autoencoder: one is trained
    assert "An encoder was trained" in " ".join(report.sections["model"]["notes"])


# --- what goes wrong ------------------------------------------------------------------------


class Hopeless(nn.Module):
    """Noise in black and white, which no digit looks like."""

    def forward(self, z):
        return (z.repeat(1, 6)[:, :64] > 0).float().reshape(-1, 1, 8, 8)


def hopeless(folder):
    torch.jit.script(Hopeless()).save(folder / "noise.pt")
    return GeneratorSpec(
        ModelSpec(file=str(folder / "noise.pt")), parse_latent("normal:12"), (0.0, 1.0)
    )


def test_chains_that_do_not_move(tmp_path):
    config = small(epochs=6.0, lr=1e-2, chain_length=1, temperature=0.01)
    with pytest.raises(TrainingError, match="under none of which chains move"):
        filtered(hopeless(tmp_path), tmp_path, config)
    assert not (tmp_path / "out").exists()


def test_a_late_error_leaves_nothing(zoo, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ArtefactError("Comparing", "two numbers")

    monkeypatch.setattr("bnnkit.run.filtering.files.write_grid", broken)
    with pytest.raises(ArtefactError):
        filtered(zoo.spec(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_gates_judge_the_first_extractor(zoo, tmp_path):
    report, _ = filtered(zoo.spec(), tmp_path, gates=GateOptions(max_fid=1e-6))
    (row,) = report.gates
    assert row["verdict"] == "fail"
    assert row["value"] == pytest.approx(fid(report))
    with pytest.raises(UsageError, match="max-ece"):
        filtered(zoo.spec(), tmp_path, gates=GateOptions(max_ece=1))
    report, _ = filtered(zoo.spec(), tmp_path, gates=GateOptions(max_fid=1e6))
    assert [row["verdict"] for row in report.gates] == ["pass"]
