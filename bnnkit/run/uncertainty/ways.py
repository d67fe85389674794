"""Every way to predict that `sbn-fit` puts side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bnnkit.io.data import Split
from bnnkit.methods.sbn import StochasticNet
from bnnkit.run.uncertainty import answers as ways_to_answer
from bnnkit.run.uncertainty.answers import Answers
from bnnkit.run.uncertainty.fitting import HELD, MEASURED, Job, Member, network_of
from bnnkit.run.uncertainty.side_by_side import Way

__all__ = ["measure_ways"]

_LABELS = {
    "factorised": "factorised SBN",
    "layer-gaussian": "layer-wise SBN",
    "lowrank": "low-rank SBN",
    "replay": "replayed SBN",
}


def measure_ways(job: Job, first: Member, rest: Sequence[Member]) -> list[Way]:
    """Let every way to predict answer to the same inputs."""
    plain = _plain(job, first, "batch norm")
    found: dict[str, tuple[str, dict[str, Answers]]] = {
        "bn": ("batch norm", plain),
        "means": ("fitted means", _means(job, first)),
    }
    for name in job.networks():
        delivered = name == job.config.sampler
        network = first.network if delivered else network_of(job, first.net, first.collected, name)
        found[name] = (_LABELS[name], _answers(job, network, _LABELS[name]))
    dropped = _dropout(job, first)
    if dropped:
        found["mc-dropout"] = ("MC dropout", dropped)
    if rest:
        found |= _ensembles(job, plain, found[job.config.sampler][1], rest)
    ways = _calibrated(job, found)
    if job.config.mc_batch_norm:
        ways.append(_mc_batch_norm(job, first, ways[0]))
    return ways


def _calibrated(job: Job, found: dict[str, tuple[str, dict[str, Answers]]]) -> list[Way]:
    """Return each way, and those that are worth it at a fitted temperature as well."""
    reference = found["bn"][1][MEASURED]
    calibrated = job.config.calibrate == "temperature"
    heated = {"bn", *job.networks(), "ensemble", "ensemble-sbn", "mc-dropout"}
    ways = []
    for name, (label, parts) in found.items():
        outside = {key: parts[key] for key in job.outside}
        chosen = name == job.config.sampler
        ways.append(
            Way(name, label, parts[MEASURED], reference, outside,
                delivered=chosen and not calibrated, held=parts.get(HELD))
        )  # fmt: skip
        if not calibrated or name not in heated:
            continue
        answers, temperature = job.calibration.temper(parts[MEASURED], parts.get(HELD))
        hot = {key: theirs.at_temperature(temperature) for key, theirs in outside.items()}
        full = "temperature" if name == "bn" else f"{name}+temperature"
        title = f"{label} + temperature"
        ways.append(Way(full, title, answers, reference, hot, temperature, delivered=chosen))
    return ways


def _over(job: Job, what: str, answer: Callable[[Split], Answers]) -> dict[str, Answers]:
    """Let one way answer to every set of inputs."""
    parts = job.parts()
    job.progress.start(f"measuring {what}", sum(map(len, parts.values())))
    found = {name: answer(split) for name, split in parts.items()}
    job.progress.stop()
    return found


def _plain(job: Job, member: Member, what: str) -> dict[str, Answers]:
    return _over(
        job, what,
        lambda split: ways_to_answer.plain(
            member.net, member.network.log_probabilities, split, job.device, job.progress.advance
        ),
    )  # fmt: skip


def _means(job: Job, member: Member) -> dict[str, Answers]:
    """Answer with the means of the fitted statistics, without noise."""
    network, mean = member.network, member.collected.mean.float()[None]

    def answer(split: Split) -> Answers:
        return ways_to_answer.of_statistics(
            network, mean.to(job.device), split, device=job.device, on_batch=job.progress.advance
        )

    return _over(job, "fitted means", answer)


def _answers(job: Job, network: StochasticNet, what: str) -> dict[str, Answers]:
    return _over(
        job, what,
        lambda split: ways_to_answer.of_network(
            network, split, device=job.device, on_batch=job.progress.advance
        ),
    )  # fmt: skip


def _dropout(job: Job, member: Member) -> dict[str, Answers]:
    """Answer by MC dropout; nothing where the net drops nothing."""
    if not ways_to_answer.dropouts(member.net):
        return {}
    return _over(
        job, "MC dropout",
        lambda split: ways_to_answer.mc_dropout(
            member.net, member.network.probabilities, split, samples=job.config.samples,
            seed=job.config.seed, device=job.device, on_batch=job.progress.advance,
        ),
    )  # fmt: skip


def _ensembles(
    job: Job,
    plain: dict[str, Answers],
    noisy: dict[str, Answers],
    rest: Sequence[Member],
) -> dict[str, tuple[str, dict[str, Answers]]]:
    """Average several nets, each with its own batch norm and each under its noise."""
    count = len(rest) + 1
    nets, noises = [plain], [noisy]
    for i, member in enumerate(rest):
        nets.append(_plain(job, member, f"member {i + 2}"))
        noises.append(_answers(job, member.network, f"member {i + 2} under noise"))
    averaged = [
        {part: ways_to_answer.ensemble([m[part] for m in group]) for part in plain}
        for group in (nets, noises)
    ]
    return {
        "ensemble": (f"ensemble of {count}", averaged[0]),
        "ensemble-sbn": (f"ensemble of {count}, each under SBN", averaged[1]),
    }


def _mc_batch_norm(job: Job, member: Member, first: Way) -> Way:
    """Answer to some inputs, each inside real training batches."""
    config, measured = job.config, job.calibration.measured
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(measured), generator=generator)[: config.mc_batch_norm]
    job.progress.start("measuring MC-BN", len(rows))
    found = ways_to_answer.mc_batch_norm(
        member.network, measured.select(rows), job.bench.data.train,
        batch_size=config.batch_size, samples=config.samples, generator=generator,
        device=job.device, on_batch=job.progress.advance,
    )  # fmt: skip
    job.progress.stop()
    return Way("mc-bn", "MC-BN", found, first.answers.select(rows))
