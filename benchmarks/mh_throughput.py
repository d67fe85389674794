"""How many filtered samples a second: one proposal at a time, many chains at once, a bank.

python benchmarks/mh_throughput.py [RUN]

RUN is a run directory of `mh-filter`; without one an MLP generator of fresh weights and a fresh
discriminator stand in, which cost the same. All on one thread, in CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from bnnkit.io.generators import open_generator
from bnnkit.methods.mh.chains import bank_chains
from bnnkit.methods.mh.markov import latent_chains
from bnnkit.methods.mh.networks import ConvDiscriminator, without_spectral_norm
from bnnkit.methods.mh.scores import ConvScore, score_images
from bnnkit.run.load import load
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.spec import ModelSpec
from bnnkit.spec.generator import GeneratorSpec, LatentSpec

LENGTH, BANK, SAMPLES, CHAINS = 640, 100_000, 10_000, 1024
ROUNDS, ONE_STEPS, FRESH_STEPS = 3, 400, 10


def timed(work: Callable[[], None]) -> float:
    """Return the CPU seconds of a piece of work."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    """Time the three in turn, several rounds, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    torch.set_num_threads(1)
    if run is not None:
        sampler = load(run)
        made, score, starts = sampler.generator, sampler.score, sampler.starts.double()
    else:
        spec = ModelSpec(arch="bnnkit:mlp-gan-generator")
        made = open_generator(
            GeneratorSpec(spec, LatentSpec("normal", (64,)), (-1, 1), (1, 28, 28))
        )
        score = ConvScore(without_spectral_norm(ConvDiscriminator((1, 28, 28)).eval()))
        starts = torch.zeros(1000, dtype=torch.float64)

    def chains(count: int, steps: int, seed: int) -> Callable[[], None]:
        draws = torch.Generator().manual_seed(seed)

        def work() -> None:
            begun = starts[torch.randint(len(starts), (count,), generator=draws)]
            latent_chains(
                made.draw, lambda z: score_images(score, made.bytes(z)), begun, steps, 1.0, draws
            )

        return work

    def banked(seed: int) -> Callable[[], None]:
        draws = torch.Generator().manual_seed(seed)

        def work() -> None:
            images = made.bytes(made.draw(BANK, draws))
            bank_chains(score_images(score, images), starts, SAMPLES, LENGTH, draws)

        return work

    rows = []
    for seed in range(ROUNDS):
        one = ONE_STEPS / LENGTH / timed(chains(1, ONE_STEPS, seed))
        many = CHAINS * FRESH_STEPS / LENGTH / timed(chains(CHAINS, FRESH_STEPS, seed))
        bank = SAMPLES / timed(banked(seed))
        rows.append({"one_at_a_time": one, "chains_at_once": many, "bank": bank})
        print({k: round(v, 2) for k, v in rows[-1].items()})
    middle = {k: sorted(row[k] for row in rows)[ROUNDS // 2] for k in rows[0]}
    body = {
        "command": "python benchmarks/mh_throughput.py" + (" RUN" if run else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "threads": 1,
        "versions": versions(),
        "unit": "filtered samples per CPU second",
        "chain_length": LENGTH,
        "bank": BANK,
        "samples": SAMPLES,
        "chains_at_once": CHAINS,
        "rounds": rows,
        "median": middle,
        "ratio": {
            "chains at once / one at a time": middle["chains_at_once"] / middle["one_at_a_time"],
            "bank / one at a time": middle["bank"] / middle["one_at_a_time"],
        },
    }
    out = Path(__file__).parent / "results" / "mh_throughput.json"
    out.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(body["median"], body["ratio"])


if __name__ == "__main__":
    main()
