"""A run's report: every figure with its unit, its number of observations and its interval."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from bnnkit.errors import UsageError

__all__ = ["REPORT_SCHEMA", "Quantity", "Report"]

REPORT_SCHEMA = 1


@dataclass(frozen=True)
class Quantity:
    """One measured figure.

    Args:
        value: The estimate.
        unit: `%`, `points`, `nats`, `ms`, `x`, `MACs`, `bytes` ...
        n: Observations behind it; None for an exact count.
        low: Lower end of the interval; None for an exact count.
        high: Upper end of the interval.
        level: Confidence of the interval.
    """

    value: float
    unit: str
    n: int | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95

    def __str__(self) -> str:
        """Write value, unit and interval for a reader."""
        text = f"{self.value:.4g} {self.unit}".strip()
        if self.low is None or self.high is None:
            return text
        return f"{text} [{self.low:.4g}, {self.high:.4g}]"


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON is any tree
    """Replace numbers that JSON cannot hold: NaN and infinities become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


@dataclass
class Report:
    """What one command measured.

    The sections are plain dictionaries so that they survive as JSON; a figure in them is the
    dictionary form of a `Quantity`. `docs/report.md` lists the sections of each command.

    Args:
        command: `prune`, `eval`, `bench`, `train` ...
        provenance: Versions, argv, seed, hardware, data fingerprint, start and duration.
        sections: Named parts: `original`, `slim`, `paired`, `latency`, `classes`, `checks` ...
        gates: The judged gates, as `bnnkit.run.gates` writes them.
    """

    command: str
    provenance: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)

    def quantity(self, section: str, *keys: str) -> Quantity | None:
        """Return the figure at `section/keys...`, or None where the report has none."""
        node: Any = self.sections.get(section)
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, Quantity):
            return node
        if not isinstance(node, dict) or node.get("value") is None:
            return None
        known = {k: node[k] for k in ("value", "unit", "n", "low", "high", "level") if k in node}
        return Quantity(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe dictionaries."""

        def plain(value: Any) -> Any:  # noqa: ANN401 - JSON is any tree
            if isinstance(value, Quantity):
                return {k: v for k, v in asdict(value).items() if v is not None}
            if isinstance(value, dict):
                return {str(k): plain(v) for k, v in value.items()}
            if isinstance(value, list | tuple):
                return [plain(v) for v in value]
            return value

        body = {"schema": REPORT_SCHEMA, "command": self.command, "provenance": self.provenance}
        safe = _finite(plain({**body, **self.sections, "gates": self.gates}))
        assert isinstance(safe, dict)  # a dictionary went in
        return safe

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report.

        Raises:
            UsageError: The text is not a report, or one of another schema version.
        """
        try:
            body = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError("Reading a report", str(error), "this is not JSON") from error
        if not isinstance(body, dict) or "command" not in body or "schema" not in body:
            raise UsageError(
                "Reading a report",
                "JSON without 'schema' and 'command'",
                "this is not a bnnkit report",
                "Name the report.json of a run directory.",
            )
        if body["schema"] != REPORT_SCHEMA:
            raise UsageError(
                "Reading a report",
                f"schema version {body['schema']!r}",
                f"this version of bnnkit reads schema {REPORT_SCHEMA}",
            )
        fixed = {"schema", "command", "provenance", "gates"}
        return cls(
            command=str(body["command"]),
            provenance=dict(body.get("provenance", {})),
            sections={k: v for k, v in body.items() if k not in fixed},
            gates=list(body.get("gates", [])),
        )
