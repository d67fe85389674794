"""Learned independent proposals: five objectives by four families on two targets.

python benchmarks/mh_proposal.py main|table mixture6|logreg:breast-cancer [--seeds 0 1 2]

`main` is what the command is held to, for each seed: the default on the mixture of six Gaussians;
a full-rank Gaussian and the default on the breast-cancer regression, against a long NUTS run by
pyro (benchmarks/logreg_nuts.py). `table` is every pair of family and objective with seed 0;
flows, whose steps take many times as long, train for 300 of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bnnkit
from bnnkit.run.provenance import cpu_model, versions
from bnnkit.spec.proposal import FAMILIES, OBJECTIVES, ProposalConfig

RESULTS = Path(__file__).parent / "results"
RESULT = RESULTS / "mh_proposal.json"
NUTS = RESULTS / "logreg_breast_cancer_nuts.json"
MIXTURE, REGRESSION = "mixture6", "logreg:breast-cancer"
FLOW_STEPS = 300
MAIN = {
    MIXTURE: [ProposalConfig()],
    REGRESSION: [
        ProposalConfig(
            family="full-rank", objective="renyi", training_chains=1024, steps=2000, draws=5000
        ),
        ProposalConfig(draws=5000),
    ],
}
_FIGURES = (
    *("acceptance_moved", "ess", "ess_per_draw", "ess_per_second", "rhat", "unmoved"),
    *("pareto_k", "seconds"),
)


def measure(target: str, config: ProposalConfig) -> dict[str, Any]:
    """Run the command's library call and keep its figures."""
    with tempfile.TemporaryDirectory() as folder:
        report = bnnkit.mh_proposal(
            target,
            config,
            reference=NUTS if target == REGRESSION else None,
            out=Path(folder) / "run",
        )
    body = report.to_dict()
    s = body["sampling"]
    row = {
        "target": target,
        "family": config.family,
        "objective": config.objective,
        "seed": config.seed,
        "steps": config.steps,
        "acceptance": s["acceptance"],
        **{key: s[key] for key in _FIGURES},
        "ess_median_per_draw": s["ess_median"] / (s["chains"] * s["draws"]),
        "training_seconds": body["training"]["seconds"],
        "bias": {k: v for k, v in body["bias"].items() if k != "reference"},
        "good": body["good"],
        "verdict": body["verdict"][0],
    }
    if "modes" in body:
        row["modes"] = {k: body["modes"][k] for k in ("visited", "known", "tv")}
    print(json.dumps(row), flush=True)
    return row


def write(part: str, target: str, rows: list[dict[str, Any]], command: str) -> None:
    """Put the rows of one target into the result, and leave the others as they are."""
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    result.setdefault(part, {})[target] = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "versions": versions() | {"zuko": version("zuko")},
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(target: str, seed: int) -> list[dict[str, Any]]:
    """Measure every pair of family and objective."""
    rows = []
    for family in FAMILIES:
        steps = FLOW_STEPS if family == "flow" else ProposalConfig.steps
        for objective in OBJECTIVES:
            config = ProposalConfig(family=family, objective=objective, steps=steps, seed=seed)
            rows.append(measure(target, config))
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["main", "table"])
    parser.add_argument("target", choices=[MIXTURE, REGRESSION])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    command = f"python benchmarks/mh_proposal.py {args.part} {args.target}"
    if args.part == "main":
        rows = [
            measure(args.target, replace(config, seed=seed))
            for config in MAIN[args.target]
            for seed in args.seeds
        ]
        command += f" --seeds {' '.join(map(str, args.seeds))}"
    else:
        rows = table(args.target, 0)
    write(args.part, args.target, rows, command)


if __name__ == "__main__":
    main()
