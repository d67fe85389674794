"""Targets from files: tables, references and the user's own code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bnnkit.errors import DataError, UsageError
from bnnkit.io.targets import guarded, load_density, read_labelled, read_reference

ROWS = [(1.0, 2.0, 0), (3.5, -4.0, 1), (0.0, 1e2, 1), (2.0, 2.5, 0)]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def table(delimiter=",", header=None, rows=ROWS):
    lines = [delimiter.join(map(str, row)) for row in rows]
    return "\n".join([*([header] if header else []), *lines]) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
@pytest.mark.parametrize("header", [None, "a|b|outcome"])
def test_every_delimiter_with_and_without_a_header(tmp_path, delimiter, header):
    head = header.replace("|", delimiter) if header else None
    found = read_labelled(write(tmp_path / "t.csv", table(delimiter, head)))
    assert found.features.tolist() == [list(row[:2]) for row in ROWS]
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert ("'outcome', by its name" if header else "the last column") in found.notes[0]


def test_the_label_is_chosen_by_option_then_by_name_then_last(tmp_path):
    rows = [("b", 1.0, 7), ("a", 2.0, 7), ("a", 3.0, 8)]
    path = write(tmp_path / "t.csv", table(header="Class,x,z", rows=rows))
    found = read_labelled(path)
    assert found.labels.tolist() == [1, 0, 0]
    assert "'Class', by its name, 'b' is 1 and 'a' is 0" in found.notes[0]
    with pytest.raises(DataError, match="the cell 'b' in row 1"):
        read_labelled(path, "z")
    plain = write(tmp_path / "u.csv", table(header="q,x,z", rows=[(0, 1.0, 7), (1, 2.0, 8)]))
    assert "column 'z', the last" in read_labelled(plain).notes[0]
    assert read_labelled(plain, "q").features.tolist() == [[1, 7], [2, 8]]
    assert read_labelled(plain, "0").labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"Did you mean|Known"):
        read_labelled(plain, "w")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,0\n2,1\n3,2\n", "3 different labels"),
        ("a,b\n1,0\n2,0\n", "1 different labels"),
        ("a,b\n1,0\nx,1\n", "the cell 'x' in row 2"),
        ("a,b,y\n1,1,0\n2,1\n", "2 cells in row 2"),
        ("a,y\nnan,0\n2,1\n", "1 values that are missing"),
        ("a,y\n", "1 rows"),
        ("", "0 rows"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read_labelled(write(tmp_path / "t.csv", text))


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "absent.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="no UTF-8"):
        read_labelled(tmp_path / "b.csv")
    (tmp_path / "b.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"no plain \.npz"):
        read_labelled(tmp_path / "b.npz")


def test_npz(tmp_path):
    x = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "t.npz", X=x, y=np.array(["m", "b", "b", "m"]), odd=np.ones(4))
    found = read_labelled(tmp_path / "t.npz")
    assert np.array_equal(found.features.numpy(), x)
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert "array 'y', by its name" in found.notes[0]
    with pytest.raises(DataError, match="1 different labels"):
        read_labelled(tmp_path / "t.npz", "odd")
    with pytest.raises(DataError, match="the keys X, odd, y"):
        read_labelled(tmp_path / "t.npz", "absent")


def test_own_code(tmp_path):
    path = write(
        tmp_path / "t.py",
        "import torch\n"
        "def log_prob(x):\n    return -x.square().sum(1)\n"
        "class Target:\n    dim = 3\n    def log_prob(self, x):\n        return x.sum(1)\n"
        "class Needs:\n    def __init__(self, a):\n        pass\n",
    )
    assert load_density(f"{path}:log_prob")(torch.ones(2, 2)).tolist() == [-2, -2]
    assert load_density(f"{path}:Target").dim == 3
    with pytest.raises(UsageError, match="without arguments"):
        load_density(f"{path}:Needs")
    with pytest.raises(UsageError, match="Did you mean 'log_prob'"):
        load_density(f"{path}:log_prb")
    with pytest.raises(UsageError, match="no file"):
        load_density(f"{tmp_path / 'absent.py'}:f")
    broken = write(tmp_path / "b.py", "x = 1\nraise RuntimeError('odd')\n")
    with pytest.raises(UsageError, match=r"b.py:2: RuntimeError: odd"):
        load_density(f"{broken}:f")


def test_a_module_that_is_not_there_is_no_matter_of_architectures():
    with pytest.raises(UsageError) as caught:
        load_density("nowhere.target:log_prob")
    assert caught.value.found == "no module 'nowhere'"
    assert caught.value.hint == "Name it as path/to/file.py:log_prob."


def test_what_own_code_raises_is_told_with_its_line(tmp_path):
    path = write(tmp_path / "t.py", "def f(x):\n    raise KeyError('w')\n")
    name = f"{path}:f"
    with pytest.raises(UsageError, match=r"t.py:2: KeyError: 'w'.*--dim"):
        guarded(load_density(name), name)(torch.zeros(1, 4))


def test_a_reference(tmp_path):
    body = {"mean": [0.0, 1.0], "sd": [1.0, 2.0], "source": "elsewhere"}
    path = write(tmp_path / "r.json", json.dumps(body))
    assert read_reference(path) == body
    for text, words in (
        ("{", "this is not JSON"),
        ("[]", "no lists"),
        ('{"mean": [0], "sd": ["a"]}', "no lists"),
        ('{"mean": [0], "sd": [0]}', "a deviation of 0"),
    ):
        with pytest.raises(DataError, match=words):
            read_reference(write(tmp_path / "r.json", text))
    with pytest.raises(DataError, match="No such file"):
        read_reference(tmp_path / "absent.json")
