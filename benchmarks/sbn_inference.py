"""What an averaged prediction costs: K samples against plain eval, and against K plain passes.

python benchmarks/sbn_inference.py [--threads 1 2]

ResNet-20 with fresh weights; each setting times all ways in turns in one process. Exactness is
measured on the same net: the virtual batch against K folded passes against a loop that sets the
statistics of an untouched net by hand, and ONNX under onnxruntime with the same noise.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

import bnnkit
from bnnkit.io.architectures import build_architecture
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.latency.timing import speedup, time_interleaved
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.run.uncertainty.stochastic import write_onnx_with_noise

RESULT = Path(__file__).parent / "results" / "sbn_inference.json"
ARCH, SHAPE = "bnnkit:resnet20-cifar", (3, 32, 32)


def fitted() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return a net with settled statistics, and its stochastic form."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(32, *SHAPE, generator=generator) for _ in range(60)]
    net = build_architecture(ARCH, {}, seed=0).train()
    with torch.no_grad():
        for x in batches[:20]:
            net(x)
    return net.eval(), bnnkit.sbn.fit(net, batches, batches=60)


def cost(net: torch.nn.Module, stochastic: torch.nn.Module, threads: int) -> list[dict]:
    """Time K = 1 and K = 10 against one plain pass, and ten plain passes against one."""
    rows = []
    for batch in (1, 32):
        x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1))
        noise = {k: stochastic.noise(k) for k in (1, 10)}
        calls = {
            "plain": lambda x=x: net(x),
            "plain x10": lambda x=x: [net(x) for _ in range(10)],
            "K = 1": lambda x=x, n=noise[1]: stochastic(x, n),
            "K = 10": lambda x=x, n=noise[10]: stochastic(x, n),
            "K = 10, virtual batch": lambda x=x, n=noise[10]: stochastic.virtual(x, n),
            "K = 10, folded passes": lambda x=x, n=noise[10]: stochastic.loop(x, n),
        }
        with torch.inference_mode():
            timings = time_interleaved(calls, max_seconds=18.0, device="cpu")
        for name, timing in timings.items():
            ratio = speedup(timing, timings["plain"])  # time over the plain time
            rows.append(
                {
                    "batch": batch,
                    "threads": threads,
                    "way": name,
                    "times_plain": [ratio.value, ratio.low, ratio.high],
                    "rounds": ratio.n,
                }
            )
    return rows


def by_hand(net: torch.nn.Module, stochastic: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Average K passes of the owner's net whose running statistics are set to each sample."""
    loop, answers = copy.deepcopy(net), []
    for row in stochastic.sampler(stochastic.noise()):
        parts = torch.split(row, [2 * c for c in stochastic.channels])
        for site, part in zip(stochastic.sites, parts, strict=True):
            norm = loop.get_submodule(site)
            mean, log_deviation = part.chunk(2)
            norm.running_mean = mean
            norm.running_var = (2 * log_deviation).exp() - norm.eps
        answers.append(loop(x).softmax(1))
    return torch.stack(answers).mean(0)


def exactness(net: torch.nn.Module, stochastic: torch.nn.Module) -> dict[str, float]:
    """Return the largest difference of each way from the loop by hand, of probabilities."""
    from onnxruntime import InferenceSession

    x = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(2))
    noise = stochastic.noise()
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        expected = by_hand(net, stochastic, x)
        path = Path(folder) / "model.onnx"
        write_onnx_with_noise(stochastic, x[:2], path, "input")
        feed = {"input": x.numpy(), "noise": noise.numpy()}
        onnx = torch.from_numpy(InferenceSession(str(path)).run(None, feed)[0])
        found = {
            "virtual batch": stochastic.virtual(x, noise).mean(0),
            "folded passes": stochastic.loop(x, noise).mean(0),
            "onnx": onnx,
        }
        return {name: float((p - expected).abs().max()) for name, p in found.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    net, stochastic = fitted()
    generator = torch.Generator().manual_seed(3)
    rows = []
    for threads in args.threads:
        with torch_threads(threads):
            stochastic.choose(torch.randn(32, *SHAPE, generator=generator))
            rows += cost(net, stochastic, threads)
    threads = " ".join(map(str, args.threads))
    result = {
        "command": f"python benchmarks/sbn_inference.py --threads {threads}",
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions(),
        "net": ARCH,
        "cost": rows,
        "largest_difference_of_probabilities": exactness(net, stochastic),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
