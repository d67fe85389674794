"""The options of an autoencoder become its specification."""

import pytest
import typer
from typer.testing import CliRunner

from bnnkit.cli.groups import takes_groups
from bnnkit.cli.vae_options import VaeOptions
from bnnkit.errors import UsageError
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import VaeSpec

MODEL = ModelSpec("vae.pth")


def parsed(*args):
    """Return what a command with these options was called with."""
    seen = []

    @takes_groups
    def command(vae: VaeOptions) -> None:
        """Do it."""
        seen.append(vae.spec(MODEL))

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    result = CliRunner().invoke(app, [*args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return seen[0]


def test_nothing_said_is_nothing_stated():
    assert parsed() == VaeSpec(MODEL)


def test_every_option_has_its_field():
    assert parsed(
        "--likelihood", "gaussian", "--decoder-variance-is", "logsigma", "--variance-is", "sigma2",
        "--prior", "p.py:log_prior", "--input-range=-1,1", "--binarise", "none", "--allow-grey",
    ) == VaeSpec(
        MODEL, "gaussian", None, "sigma2", "logsigma", None, "p.py:log_prior", (-1.0, 1.0), "none",
        True,
    )  # fmt: skip
    assert parsed("--outputs", "logits").outputs == "logits"
    assert parsed("--decoder-sigma", "0.25").decoder_sigma == 0.25


def test_a_value_without_meaning_is_refused():
    with pytest.raises(UsageError, match="--variance-is"):
        parsed("--variance-is", "std")
