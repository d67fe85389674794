"""Everything that `mh-filter` can be told besides the generator and the data."""

from __future__ import annotations

from dataclasses import dataclass

from bnnkit.errors import UsageError, did_you_mean

__all__ = ["CALIBRATIONS", "CONTROLS", "DISCRIMINATORS", "LOSSES", "PROPOSALS", "MhConfig"]

DISCRIMINATORS = ("conv", "features", "combined", "owner")
"""A net on images, a regression on an extractor's features, both, or the owner's own."""

LOSSES = ("bce", "mce", "ub")
PROPOSALS = ("independent", "walk", "encoder")
"""Fresh latents; latents near the last; images near the last, through an encoder."""

CALIBRATIONS = ("temperature", "platt", "isotonic", "none")
CONTROLS = ("drs", "sir", "ddls")
_OUTPUTS = ("auto", "logit", "probability")


@dataclass(frozen=True)
class MhConfig:
    """How a generator is filtered (Neklyudov et al. 2019).

    Args:
        discriminator: One of `DISCRIMINATORS`.
        loss: `bce`, `mce` (pairwise logistic) or `ub` (the upper bound of eq. 28).
        floor: b of d in [b, 1] for the upper bound.
        epochs: Passes over the real images when a net is trained.
        lr: Peak learning rate.
        width: Channels after the first layer of the net.
        dropout: Rate before the net's last layer.
        calibrate: `temperature` (chosen by the held-out distance of what is filtered), `platt`,
            `isotonic` or `none`.
        temperature: A temperature of the user's; None chooses.
        owner_output: What the owner's discriminator gives: `logit`, `probability` or `auto`.
        proposal: One of `PROPOSALS`.
        step: How far a Markov proposal goes, in (0, 1]: beta of the pCN walk.
        bank: Proposals that are made and scored; 0 makes fresh ones for every step, and 20,000
            to choose the temperature by.
        samples: Images to deliver.
        chain_length: Proposals offered to each chain; None takes 640 over a bank, and 100 where
            each proposal has to be made.
        held: Real images kept from the discriminator, for starts and choices.
        metric_samples: Most images on each side of a metric.
        controls: Rivals that are measured: `drs`, `sir`, `ddls`.
        trace: Whether the metrics are followed along the training of the net.
        formats: Forms to write besides safetensors: `onnx`.
        device: `cpu`, `cuda` or `auto`.
        threads: CPU threads; None takes torch's own choice.
        seed: Seed of splits, latents, training and chains.

    Raises:
        UsageError: A value has no meaning.
    """

    discriminator: str = "conv"
    loss: str = "mce"
    floor: float = 0.01
    epochs: float = 4.0
    lr: float = 3e-3
    width: int = 16
    dropout: float = 0.5
    calibrate: str = "temperature"
    temperature: float | None = None
    owner_output: str = "auto"
    proposal: str = "independent"
    step: float = 0.5
    bank: int = 200_000
    samples: int = 10_000
    chain_length: int | None = None
    held: int = 10_000
    metric_samples: int = 10_000
    controls: tuple[str, ...] = ("drs", "sir")
    trace: bool = False
    formats: tuple[str, ...] = ("onnx",)
    device: str = "auto"
    threads: int | None = None
    seed: int = 0

    @property
    def over_bank(self) -> bool:
        """Whether chains run over a bank of scores."""
        return self.proposal == "independent" and self.bank > 0

    @property
    def length(self) -> int:
        """Proposals offered to each chain."""
        return self.chain_length or (640 if self.over_bank else 100)

    @property
    def made(self) -> int:
        """Proposals that are made and scored before chains run."""
        return self.bank or 20_000

    def __post_init__(self) -> None:
        for option, name, known in (
            ("--discriminator", self.discriminator, DISCRIMINATORS),
            ("--loss", self.loss, LOSSES),
            ("--calibrate", self.calibrate, CALIBRATIONS),
            ("--proposal", self.proposal, PROPOSALS),
            ("--discriminator-output", self.owner_output, _OUTPUTS),
            *(("--compare", name, CONTROLS) for name in self.controls),
        ):
            if name not in known:
                raise UsageError(
                    f"Reading {option}", repr(name), "it is not known", did_you_mean(name, known)
                )
        for option, value, least, most in (
            ("--floor", self.floor, 1e-6, 0.5),
            ("--epochs", self.epochs, 0.01, 1000.0),
            ("--lr", self.lr, 1e-8, 10.0),
            ("--dropout", self.dropout, 0.0, 0.9),
            ("--step", self.step, 1e-3, 1.0),
            ("--temperature", self.temperature, 1e-3, 1e3),
            ("--width", self.width, 1, 1024),
            ("--samples", self.samples, 50, 10_000_000),
            ("--bank", self.bank, 0, 100_000_000),
            ("--chain-length", self.chain_length, 1, 1_000_000),
            ("--held", self.held, 50, 10_000_000),
            ("--metric-samples", self.metric_samples, 50, 10_000_000),
            ("--threads", self.threads, 1, 4096),
            ("--seed", self.seed, 0, 1e15),
        ):
            if value is not None and not least <= value <= most:
                raise UsageError(
                    f"Reading {option}",
                    f"{value:,.12g}",
                    f"it goes from {least:,.12g} to {most:,.16g}",
                )
        if self.trace and self.discriminator not in ("conv", "combined"):
            raise UsageError(
                "Reading --trace", f"the discriminator {self.discriminator!r}",
                "no net is trained for it whose training could be followed",
                "Use --discriminator conv or combined.",
            )  # fmt: skip
        if self.bank and self.bank < 100:
            raise UsageError(
                "Reading --bank",
                str(self.bank),
                "a chain over so few proposals repeats them",
                "Use 100 or more, or 0 for fresh proposals at every step.",
            )
