"""Files made to harm: each is refused in one message, and the canary shows that nothing ran."""

import importlib
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from bnnkit.errors import FileRefusedError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.sniff import sniff

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT.parent / "shared" / "checkpoints" / "resnet20-12fca82f.th"

sys.path.insert(0, str(ROOT / "benchmarks"))  # the benchmark and the tests read one set
hostile_files = importlib.import_module("hostile_files")
hostile_set = importlib.import_module("hostile_set")


def test_the_payloads_are_armed(tmp_path):
    """Under an ordinary unpickler each of them does run its command."""
    for number, (name, payload) in enumerate(hostile_set.payloads("CANARY").items()):
        if name == "REDUCE of an unknown function":
            continue  # its module does not exist
        canary = tmp_path / str(number)
        # The command has a length byte in some opcodes, so it is written for each file anew.
        armed = hostile_set.payloads(f"touch {canary}")[name]
        assert armed != payload
        (tmp_path / f"{number}.pkl").write_bytes(armed)
    code = (
        "import pathlib, pickle, sys\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.pkl'):\n"
        "    try: pickle.loads(path.read_bytes())\n"
        "    except Exception: pass\n"
        "import time; time.sleep(0.5)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    unarmed = [p.name for p in tmp_path.glob("*.pkl") if not p.with_suffix("").exists()]
    assert unarmed == []


@pytest.mark.parametrize("harvest", [False, True])
def test_hostile_files_are_refused_and_nothing_runs(tmp_path, harvest):
    canary = tmp_path / "canary"
    folder = tmp_path / "set"
    folder.mkdir()
    cases = hostile_set.hostile_cases(folder, f"touch {canary}")
    assert len(cases) > 90
    for case in cases:
        with pytest.raises(FileRefusedError) as refused:
            read_checkpoint(case.path, harvest=harvest)
        assert "\n" not in str(refused.value), case.name
        assert refused.value.hint, case.name
        assert not canary.exists(), case.name


def test_a_dangerous_file_is_described_by_its_names(tmp_path):
    hostile = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1), "x": hostile_set.Call(os.system, "true")}, hostile)
    info = sniff(hostile)
    assert "posix.system" in info.called
    with pytest.raises(FileRefusedError, match=r"'posix\.system'.*nothing was executed"):
        read_checkpoint(hostile, harvest=True)


def test_trust_runs_the_code_and_says_so(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "a.pt"
    call = hostile_set.Call(os.system, f"touch {canary}")
    torch.save({"w": torch.ones(1), "x": call}, path)
    checkpoint = read_checkpoint(path, trust_pickle=True)
    assert canary.exists()
    assert "posix.system" in checkpoint.notes[0]
    assert list(checkpoint.tensors) == ["w"]


def test_broken_files_are_refused_in_one_line(tmp_path):
    for case in hostile_set.broken_cases(tmp_path):
        with pytest.raises(FileRefusedError) as refused:
            read_checkpoint(case.path)
        assert "\n" not in str(refused.value)
        assert refused.value.found, case.name


def test_declared_terabytes_are_refused_without_memory(tmp_path):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = {"huge.safetensors", "far.safetensors", "huge-tensor.pt", "memo.pt", "bomb.pt"}
    for case in hostile_set.broken_cases(tmp_path):
        if case.name in names:
            with pytest.raises(FileRefusedError):
                read_checkpoint(case.path)
    # Writing the bomb takes 300 MiB; reading any of them takes nothing like what it declares.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800 << 10


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_random_damage_never_ends_in_a_traceback(tmp_path, kind):
    from safetensors.torch import save_file

    path = tmp_path / f"net.{kind}"
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    outcomes = []
    for case in hostile_set.mutations(tmp_path, path, 60, kind, seed=5):
        outcome, message = hostile_files.read_case(case)
        assert outcome != "fault", (case.name, message)
        outcomes.append(outcome)
    assert "refused" in outcomes
    if kind == "zip":  # every member has a checksum
        assert "other tensors" not in outcomes


@pytest.mark.shared
@pytest.mark.skipif(not CHECKPOINT.exists(), reason="needs ../shared/checkpoints")
def test_every_damage_to_a_file_named_by_its_hash_is_found(tmp_path):
    for case in hostile_set.mutations(tmp_path, CHECKPOINT, 60, "named", seed=6):
        outcome, message = hostile_files.read_case(case)
        assert outcome == "refused", (case.name, message)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", b"")
    with pytest.raises(FileRefusedError, match="two members named"):
        read_checkpoint(path)


def test_a_pickle_cannot_alter_our_stand_ins(tmp_path):
    """BUILD on a rebuild function or a class would change this process for the next file."""
    targets = {
        "function": b"ctorch._utils\n_rebuild_tensor_v2\n",
        "class": b"ccollections\nOrderedDict\n",
        "through a call": b"ctorch._utils\n_rebuild_parameter\n"
        b"(ctorch._utils\n_rebuild_tensor\ntR",
    }
    state = b"(N}V__doc__\nValtered\nstb."
    for name, target in targets.items():
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", target + state)
        with pytest.raises(FileRefusedError):
            read_checkpoint(path, harvest=True)
        from bnnkit.io import inert

        assert all(f.__doc__ != "altered" for f in inert._REBUILD.values()), name
        assert inert._Table.__doc__ != "altered"


def test_terminal_sequences_of_a_file_stay_quoted(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"cos\n\x1b[2Jsystem\n(tR.")
    with pytest.raises(FileRefusedError) as refused:
        read_checkpoint(path)
    assert "\x1b" not in str(refused.value)


def test_a_module_with_a_hidden_reduce_is_refused_under_harvest(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(hostile_set.Net(), 2))
    with pytest.raises(FileRefusedError, match="plain Python pickle"):
        read_checkpoint(path, harvest=True)
