"""The library call: what it writes, what it reads back, and which targets it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bnnkit
from bnnkit.errors import BnnkitError, DataError, FileRefusedError, UsageError
from bnnkit.io.rundir import is_run_directory
from bnnkit.methods.proposals import Target
from bnnkit.run.proposing.load import load_proposal
from bnnkit.run.proposing.target import make_target
from bnnkit.run.reporting.html import render_html
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.proposal import ProposalConfig

QUICK = ProposalConfig(steps=60, walk_steps=150, training_chains=64, chains=32, draws=200)

CODE = """
import torch

class Two:
    dim = 1
    modes = torch.tensor([[-20.0], [20.0]])
    mode_weights = [0.3, 0.7]
    reference_mean = [8.0]
    reference_sd = [18.4]
    data_size = 10

    def log_prob(self, x):
        return self.log_prior(x) + self.log_likelihood(x, torch.arange(10))

    def log_prior(self, x):
        return 0 * x[:, 0]

    def log_likelihood(self, x, rows):
        places, weights = torch.tensor([-20.0, 20.0]), torch.tensor([0.3, 0.7]).log()
        return len(rows) / 10 * torch.logsumexp(weights - 0.5 * (x - places) ** 2, 1)

def edge(x):
    return torch.where(x[:, 0] > 0, x[:, 0].abs().log() - x[:, 0], torch.nan)

bad = Two()
bad.modes = [[1.0, 2.0]]
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(CODE, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "six"
    gates = GateOptions(min_acceptance=0.5, max_rhat=1.05, min_ess_per_draw=0.999)
    return out, bnnkit.mh_proposal("mixture6", QUICK, out=out, gates=gates)


def test_the_directory(run):
    out, report = run
    names = {"proposal.safetensors", "report.html", "report.json", "samples.npz"}
    assert {p.name for p in out.iterdir()} == names
    assert is_run_directory(out)
    with np.load(out / "samples.npz") as file:
        assert file["samples"].shape == (32, 200, 2)
        assert file["samples"].dtype == np.float32
        samples, log_prob = torch.from_numpy(file["samples"]), file["log_prob"]
    expected = make_target("mixture6").log_prob(samples.flatten(0, 1)).numpy()
    assert np.allclose(log_prob.ravel(), expected, atol=1e-4)
    assert json.loads((out / "report.json").read_text())["command"] == "mh-proposal"
    assert report.sections["modes"]["visited"] == 6
    assert report.sections["bias"]["largest"] < 0.1
    assert [row["verdict"] for row in report.gates] == ["pass", "fail", "pass"]


def test_every_figure_is_documented(run):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## mh-proposal")
    for name in ("training", "sampling", "modes", "bias"):
        for key in run[1].sections[name]:
            assert f"`{key}`" in told, f"{name}.{key}"
    assert "`good`" in told


def test_the_page_shows_verdict_and_tables(run):
    page = render_html(run[1])
    for words in ("Chains under the frozen proposal", "Modes", "total variation", "R-hat"):
        assert words in page
    assert page.count(run[1].sections["verdict"][-1].split(";")[0]) == 1


def test_the_proposal_comes_back(run, tmp_path):
    out, _ = run
    proposal = load_proposal(out)
    x = proposal.sample(4000, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, make_target("mixture6").modes.centres).argmin(1)
    shares = torch.bincount(nearest, minlength=6) / 4000
    assert float((shares - 1 / 6).abs().max()) < 0.1
    with pytest.raises(FileRefusedError, match=r"no report.json and proposal"):
        load_proposal(tmp_path)


def test_load_gives_the_proposal(run, tmp_path):
    out, _ = run
    loaded, named = bnnkit.load(out), load_proposal(out)
    draws = [q.sample(50, torch.Generator().manual_seed(3)) for q in (loaded, named)]
    assert torch.equal(*draws)
    assert torch.equal(loaded.log_prob(draws[0]), named.log_prob(draws[0]))
    assert not loaded.training
    for option in ({"arch": "bnnkit:digits-cnn"}, {"state_key": "ema"}, {"latent": "normal:2"}):
        with pytest.raises(UsageError, match=f"{next(iter(option))}=.*it is a learned proposal"):
            bnnkit.load(out, **option)
    shutil.copytree(out, tmp_path / "half")
    for text in ("", "{", "[]", "\xff"):
        (tmp_path / "half" / "report.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(BnnkitError):
            bnnkit.load(tmp_path / "half")
    (tmp_path / "half" / "report.json").unlink()
    with pytest.raises(FileRefusedError, match=r"no report.json"):
        bnnkit.load(tmp_path / "half")


def test_a_seed_gives_the_same_samples(run, tmp_path):
    out, _ = run
    bnnkit.mh_proposal("mixture6", QUICK, out=tmp_path / "again")
    found = [np.load(p / "samples.npz")["samples"] for p in (out, tmp_path / "again")]
    assert np.array_equal(*found)


def test_a_finished_run_is_replaced_only_by_force(run):
    with pytest.raises(UsageError, match="it is a finished run"):
        bnnkit.mh_proposal("mixture6", QUICK, out=run[0])


def test_own_code_with_modes_reference_and_minibatches(code, tmp_path):
    config = ProposalConfig(
        steps=60, walk_steps=150, training_chains=64, chains=32, draws=400, minibatch=4, spread=30
    )
    report = bnnkit.mh_proposal(f"{code}:Two", config, out=tmp_path / "run")
    assert report.sections["modes"]["visited"] == 2
    assert report.sections["modes"]["weights"] == pytest.approx([0.3, 0.7])
    assert report.sections["modes"]["tv"] < 0.1
    assert report.sections["bias"]["reference"] == "the target's own"


def test_nan_outside_the_support_is_counted(code, tmp_path):
    report = bnnkit.mh_proposal(f"{code}:edge", QUICK, dim=1, out=tmp_path / "run")
    assert "log densities were NaN" in report.sections["model"]["notes"][-1]
    with np.load(tmp_path / "run" / "samples.npz") as file:
        assert file["samples"].min() > 0
        assert file["samples"].mean() == pytest.approx(2, abs=0.2)


def test_an_object_is_a_target_too(tmp_path):
    target = Target("normal", 2, lambda x: -0.5 * x.square().sum(1))
    report = bnnkit.mh_proposal(target, QUICK, out=tmp_path / "run")
    assert report.sections["sampling"]["acceptance"].value > 0.8
    with pytest.raises(UsageError, match="beside it"):
        bnnkit.mh_proposal(target, QUICK, dim=2, out=tmp_path / "other")


def test_gates_that_are_not_measured_are_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="max-ece"):
        bnnkit.mh_proposal("mixture6", gates=GateOptions(max_ece=1), out=tmp_path / "run")


def test_a_table_is_a_regression(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n1,2,0\n3,5,1\n0,1,0\n2,9,1\n", encoding="utf-8")
    target = make_target(f"logreg:{tmp_path / 't.csv'}")
    assert target.dim == 3
    assert target.minibatches.size == 4
    assert "column 'y'" in target.notes[0]
    assert "prior N(0, 1)" in target.notes[-1]


def test_the_embedded_regression():
    assert make_target("logreg:breast-cancer").dim == 31


def test_names_that_are_no_targets(code, tmp_path):
    for name, words in (
        ("mixture7", "Did you mean 'mixture6'"),
        ("own.py", "Use own.py:log_prob"),
        ("logreg:breast", "breast-cancer"),
        (f"{code}:CODE", "CODE"),
        (f"{code}:edge", "no --dim"),
        (f"{code}:bad", r"modes of shape \[1, 2\]|mode_weights"),
    ):
        with pytest.raises(UsageError, match=words):
            make_target(name)
    with pytest.raises(UsageError, match="has 2 coordinates"):
        make_target("mixture6", 3)
    with pytest.raises(UsageError, match="is no table"):
        make_target("mixture6", label="y")
    (tmp_path / "r.json").write_text('{"mean": [0], "sd": [1]}', encoding="utf-8")
    with pytest.raises(DataError, match="1 numbers in 'mean'"):
        make_target("mixture6", reference=tmp_path / "r.json")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "flows"}, "Did you mean 'flow'"),
        ({"objective": "elbo"}, "--objective"),
        ({"chains": 1}, "--chains"),
        ({"lr": 0.0}, "--lr"),
        ({"minibatch": 5, "objective": "ar"}, "not linear in log p"),
        ({"minibatch": 5, "objective": "forward"}, "no gradient of the density"),
    ],
)
def test_settings_without_a_meaning(settings, words):
    with pytest.raises(UsageError, match=words):
        ProposalConfig(**settings)


def test_acceptance_alone_is_no_gate():
    with pytest.raises(UsageError, match="one mode of many"):
        GateOptions(min_acceptance=0.5)
