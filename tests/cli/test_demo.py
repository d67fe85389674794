"""`bnnkit demo` keeps its promise: a point of accuracy at most, a third of the MACs at most."""

import json

import pytest

from bnnkit.cli.errors import main


@pytest.mark.slow
def test_demo_prunes_the_digits_and_passes_its_gates(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["paired"]["error_rise"]["value"] <= 1
    assert report["ratios"]["macs"] >= 3
    assert all(check["passed"] for check in report["checks"])
    assert json.loads((out / "slim" / "report.json").read_text())["ratios"] == report["ratios"]
    assert main(["demo", "--out", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["gate", str(out / "slim"), "--min-mac-ratio", "3"]) == 0
    assert main(["gate", str(out / "slim"), "--min-mac-ratio", "1000"]) == 3
