"""`vae-refine` and `vae-eval` of a belief net against the sum over all states of its latents."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from bnnkit.errors import DataError, UsageError
from bnnkit.io.sessions import OnnxProgram
from bnnkit.methods.vae.bernoulli import Bernoulli
from bnnkit.run.progress import SilentProgress
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.run.vae_eval import vae_eval
from bnnkit.run.vae_fit import vae_fit
from bnnkit.run.vae_refine import vae_refine
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_eval import VaeEvalConfig
from bnnkit.spec.vae_fit import VaeFitConfig
from bnnkit.spec.vae_refine import RefineConfig, VaeRefineConfig
from bnnkit.zoo import ZOO

LATENT, N = 6, 30
QUICK = VaeRefineConfig(limit=N, gap=0, importance=(20, 500), formats=(), device="cpu", threads=1)
EVAL = VaeEvalConfig(limit=N, elbo_samples=400, samples=(20, 500), device="cpu", threads=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A belief net for 8 x 8 digits, whose recognition net knows nothing of its posterior."""
    path = tmp_path_factory.mktemp("belief") / "sbn.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO["sbn-mnist"](latent=LATENT, in_features=64)
        with torch.no_grad():
            net.decoder[0].weight.mul_(4)
            net.recognition[0].weight.mul_(2)
            net.prior.normal_()
    torch.save(net.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def bench(file):
    return set_up_vae(VaeSpec(ModelSpec(file)), DataSpec("digits"))


@pytest.fixture(scope="module")
def exact(bench):
    """log p(x) of the first data, and the joint with every state."""
    bits = (torch.arange(2**LATENT)[:, None] >> torch.arange(LATENT)) & 1
    states = bits.float()[:, None].expand(-1, N, -1)
    joint = bench.model.log_joint(bench.test(N), states).detach().double()
    return joint.logsumexp(0), joint, states


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    """The report and folder of a run with everything."""
    out = tmp_path_factory.mktemp("refine") / "run"
    config = replace(QUICK, gap=10, gap_samples=1000, ood=("digits",))
    return vae_refine(file, "digits", config, out=out).to_dict(), out


def value(node):
    return node["value"]


def exact_bound(q, joint, states):
    log_q = q.log_prob(states).detach().double()
    return (log_q.exp() * (joint - log_q)).sum(0)


def test_a_file_is_known_by_its_names(run, bench):
    body, _ = run
    assert (bench.auto.latent, bench.auto.shape) == (LATENT, (1, 8, 8))
    model = body["model"]
    assert (model["latents"], model["latent"], model["prior"]) == ("binary", 6, "bernoulli")
    assert any("of bnnkit:sbn-mnist" in note for note in model["notes"])
    assert body["data"]["binarise_seed"] == 20151119


def test_the_refined_bound_lies_between_the_amortised_one_and_the_evidence(run, bench, exact):
    body, out = run
    evidence, joint, states = exact
    found = load_file(out / "refined.safetensors")
    x = bench.test(N)
    before = exact_bound(bench.model.amortised(x), joint, states)
    refined = Bernoulli(found["q.logits"], bench.belief.prior_logits())
    after = exact_bound(refined, joint, states)
    assert (after <= evidence + 1e-5).all()
    assert float((after - before).mean()) > 0.5
    assert float((after - before).min()) > -0.5  # by chance of the draws that decide
    told = found["elbo_after"] - found["elbo_before"]
    assert (told >= 0).all()
    assert float(told.mean()) == pytest.approx(float((after - before).mean()), abs=0.3)
    gain = value(body["slim"]["elbo"]) - value(body["original"]["elbo"])
    assert value(body["paired"]["elbo_gain"]) == pytest.approx(gain, abs=1e-5)
    kept = ~found["improved"].bool()
    assert torch.equal(found["q.logits"][kept], bench.belief.encode(x)[kept])
    work = body["refinement"]
    assert (work["family"], work["optimiser"], work["draws"]) == ("bernoulli", "ais", 20)
    assert work["improved"] == int((~kept).sum())
    assert len(work["curve"]) == 21


def test_likelihoods_meet_the_evidence(run, exact):
    body, _ = run
    evidence = float(exact[0].mean())
    for row in body["importance"]:
        if row["samples"] == 500:
            error = 5 * row["error_of_draws"] + 5e-3
            assert value(row["nll"]) == pytest.approx(-evidence, abs=error)
            assert 1 <= row["ess_least"] <= row["ess_median"] <= 500
    assert value(body["slim"]["nll"]) == value(body["importance"][-1]["nll"])
    curve = [p for p in body["importance_curve"] if p["posterior"] == "refined"]
    assert [p["samples"] for p in curve] == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert curve[0]["log_p"] < curve[4]["log_p"] < evidence + 0.1
    ess = {row["posterior"]: row.get("ess_median") for row in body["importance"]}
    assert ess["refined"] > ess["encoder"]


def test_the_gap_is_split_without_a_richer_family(run, exact):
    body, _ = run
    bounds, parts = body["gap"]["bounds"], body["gap"]["parts"]
    assert list(bounds) == ["encoder", "bernoulli", "log_p"]
    assert list(parts) == ["amortisation", "rest"]
    rising = [value(bounds[name]) for name in bounds]
    assert rising == sorted(rising)
    assert rising[-1] == pytest.approx(float(exact[0][:10].mean()), abs=0.05)


def test_latents_and_other_domains(run):
    body, _ = run
    latents = body["latents"]
    assert latents["count"] == len(latents["kl"]) == LATENT
    split = latents["split"]
    assert 0 < split["mutual_information"] < 3.5
    (row,) = body["ood"]
    assert value(row["inside_regret"]) == value(body["paired"]["elbo_gain"])


def test_the_written_refinement_is_the_one_in_torch(file, bench, tmp_path):
    out = tmp_path / "run"
    config = replace(QUICK, formats=("onnx",))
    body = vae_refine(file, "digits", config, out=out).to_dict()
    checks = {check["name"]: check for check in body["checks"]}
    assert set(checks) == {f"{name}: torch = onnx" for name in ("encoder", "decoder", "refine")}
    assert all(check["passed"] for check in checks.values())
    (loop,) = (row for row in body["files"] if row["file"] == "refine.onnx")
    assert "uniform in [0, 1)" in loop["inputs"][1]
    x = bench.test(9)
    noise = torch.rand(21, 20, 9, LATENT, generator=torch.Generator().manual_seed(5))
    program = OnnxProgram(out / "refine.onnx")
    names = ("bound_before", "bound_after", "encoder_logits", "refined_mean")
    before, after, logits, mean = program({"x": x, "noise": noise}, names)
    torch.testing.assert_close(logits, bench.belief.encode(x), atol=1e-5, rtol=1e-5)
    assert float((after - before).mean()) > 0.5
    assert ((mean > 0) & (mean < 1)).all()
    (encoded,) = OnnxProgram(out / "encoder.onnx")({"input": x}, ("logits",))
    torch.testing.assert_close(encoded, logits)


@pytest.mark.parametrize("method", ["centre", "straight-through"])
def test_ascent_refines_too_and_says_that_its_steps_are_not_exported(method, file, tmp_path):
    config = replace(QUICK, refine=RefineConfig(optimiser=method), formats=("onnx",))
    body = vae_refine(file, "digits", config, out=tmp_path / "run").to_dict()
    assert body["refinement"]["optimiser"] == method
    assert body["refinement"]["draws"] == (0 if method == "centre" else 20)
    assert value(body["paired"]["elbo_gain"]) > 0.5
    assert not (tmp_path / "run" / "refine.onnx").exists()
    assert any("only steps by ais are exported" in n for n in body["model"]["notes"])


def test_an_evaluation_meets_the_sums(file, bench, exact, tmp_path):
    evidence, joint, states = exact
    body = vae_eval(file, "digits", EVAL, out=tmp_path / "run").to_dict()
    q = bench.model.amortised(bench.test(N))
    bound = body["bound"]
    expected = float(exact_bound(q, joint, states).mean())
    assert value(bound["elbo"]) == pytest.approx(expected, abs=5 * bound["error_of_draws"])
    assert bound["kl_closed"]
    assert value(bound["kl"]) == pytest.approx(float(q.kl().detach().mean()), rel=1e-4)
    last = body["importance"][-1]
    assert value(last["nll"]) == pytest.approx(
        -float(evidence.mean()), abs=5 * last["error_of_draws"] + 0.02
    )
    assert [grid["name"][:4] for grid in body["grids"]] == ["Samp", "Data", "Trav"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Importance-weighted bound, nats" in page


def test_refined_posteriors_are_read_again(run, file, tmp_path):
    first, out = run
    body = vae_eval(file, "digits", EVAL, refined=out, out=tmp_path / "run").to_dict()
    assert value(body["slim"]["nll"]) == pytest.approx(value(first["slim"]["nll"]), abs=1e-4)
    error = 5 * body["bound"]["error_of_draws"] + 0.2
    assert value(body["bound"]["elbo"]) == pytest.approx(value(first["slim"]["elbo"]), abs=error)


def test_posteriors_of_other_latents_are_refused(run, example_vae, tmp_path):
    with pytest.raises(UsageError, match="without them"):
        vae_eval(str(example_vae), "digits", EVAL, refined=run[1], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_result_depends_on_the_batches(file, tmp_path):
    found = []
    for i, size in enumerate((7, 30)):
        config = replace(QUICK, refine=RefineConfig(batch_size=size, steps=4))
        vae_refine(file, "digits", config, out=tmp_path / str(i))
        found.append(load_file(tmp_path / str(i) / "refined.safetensors"))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_a_run_of_vae_fit_is_refined(tmp_path):
    spec = ModelSpec(
        arch="bnnkit:sbn-mnist", arch_args={"latent": 5, "hidden": 12, "in_features": 64},
        input_shape=(1, 8, 8),
    )  # fmt: skip
    config = VaeFitConfig(
        objective="wake-sleep", epochs=1, lr=1e-2, batch_size=50, nll_samples=5, nll_limit=20,
        threads=1, device="cpu",
    )  # fmt: skip
    vae_fit(spec, DataSpec("digits", limit=200), config, out=tmp_path / "fit")
    report = vae_refine(str(tmp_path / "fit"), "digits", QUICK, out=tmp_path / "run")
    body = report.to_dict()
    assert value(body["slim"]["elbo"]) >= value(body["original"]["elbo"])
    loose = tmp_path / "fit" / "model.pth"
    torch.save(load_file(tmp_path / "fit" / "model.safetensors"), loose)
    again = vae_refine(str(loose), "digits", QUICK, out=tmp_path / "loose").to_dict()
    assert again["slim"]["elbo"] == body["slim"]["elbo"]


def test_gates(file, tmp_path):
    gates = GateOptions(min_elbo_gain=-1.0, max_nll=1.0)
    body = vae_refine(file, "digits", QUICK, out=tmp_path / "run", gates=gates).to_dict()
    assert [(row["gate"], row["verdict"]) for row in body["gates"]] == [
        ("max-nll", "fail"), ("min-elbo-gain", "pass"),
    ]  # fmt: skip


def test_options_of_continuous_latents_are_refused(file, example_vae, tmp_path):
    out = tmp_path / "run"
    for refinement, words in (
        (RefineConfig(optimiser="adam"), "are binary. Use --optimiser ais"),
        (RefineConfig(family="full"), "a Bernoulli of each"),
    ):
        with pytest.raises(UsageError, match=words):
            vae_refine(file, "digits", replace(QUICK, refine=refinement), out=out)
    wrong = replace(QUICK, refine=RefineConfig(optimiser="centre"))
    with pytest.raises(UsageError, match="are continuous"):
        vae_refine(str(example_vae), "digits", wrong, out=out)
    with pytest.raises(UsageError, match="Hamiltonian"):
        vae_eval(file, "digits", replace(EVAL, ais=3), out=out)
    with pytest.raises(UsageError, match=r"no gradient flows.*--objective wake-sleep"):
        vae_fit(file, "digits", VaeFitConfig(epochs=1, device="cpu"), out=out)
    assert not list(tmp_path.iterdir())


def test_grey_data_need_a_word(file, tmp_path):
    grey = VaeSpec(ModelSpec(file), binarise="none")
    with pytest.raises(DataError, match="--allow-grey"):
        vae_refine(grey, "digits", QUICK, out=tmp_path / "run")
    body = vae_eval(replace(grey, allow_grey=True), "digits", EVAL, out=tmp_path / "run").to_dict()
    assert body["model"]["is_bound"] is False
    assert "evidence bound" not in (tmp_path / "run" / "report.html").read_text().lower()


class Told(SilentProgress):
    """Keeps what it is told."""

    def __init__(self):
        self.phases = {}
        self._phase = ""

    def start(self, description, total=None):
        self._phase = description
        self.phases[description] = [total, 0]

    def advance(self, n=1, **figures):
        self.phases[self._phase][1] += n


def test_every_phase_counts_to_its_end(file, example_vae, tmp_path):
    told = Told()
    config = replace(EVAL, ais=2, ais_temperatures=15, ais_chains=2, elbo_samples=2)
    vae_eval(str(example_vae), "digits", config, out=tmp_path / "a", progress=told)
    assert told.phases["annealed importance sampling"] == [30, 30]
    vae_refine(file, "digits", QUICK, out=tmp_path / "b", progress=told)
    assert told.phases["refining"] == [N, N]
    assert json.loads((tmp_path / "b" / "report.json").read_text())["refinement"]["n"] == N
