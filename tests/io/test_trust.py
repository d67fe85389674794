"""The list of factories that the user named on this machine."""

import json
from pathlib import Path

import pytest

from bnnkit.io.trust import default_store, is_trusted, remember


def test_only_what_was_named_is_trusted(tmp_path):
    store = tmp_path / "deep" / "trusted.json"
    assert not is_trusted("/a/net.py:build", "1", store=store)
    assert remember("/a/net.py:build", "1", store=store)
    assert is_trusted("/a/net.py:build", "1", store=store)
    assert not is_trusted("/a/net.py:build", "2", store=store)
    assert not is_trusted("/a/net.py:build", None, store=store)
    assert not is_trusted("/a/net.py:other", "1", store=store)
    assert not is_trusted("/b/net.py:build", "1", store=store)


def test_remembering_adds(tmp_path):
    store = tmp_path / "trusted.json"
    for arch, digest in (("a", "1"), ("a", "2"), ("b", None), ("a", "1")):
        assert remember(arch, digest, store=store)
    assert json.loads(store.read_text())["trusted"] == {"a": ["1", "2"], "b": [None]}
    assert [p.name for p in tmp_path.iterdir()] == ["trusted.json"]


def test_unwritable_place_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("")
    store = tmp_path / "file" / "trusted.json"
    assert not remember("a", "1", store=store)
    assert not is_trusted("a", "1", store=store)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"trusted": 3}', '{"trusted": {"a": 3}}', "null"]
)
def test_a_broken_list_trusts_nobody(tmp_path, text):
    store = tmp_path / "trusted.json"
    store.write_text(text)
    assert not is_trusted("a", "1", store=store)
    assert remember("a", "1", store=store)
    assert is_trusted("a", "1", store=store)


def test_default_is_in_the_users_home(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert remember("a", "1")
    assert default_store() == tmp_path / ".cache" / "bnnkit" / "trusted.json"
    assert is_trusted("a", "1")


def test_no_home(monkeypatch):
    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert default_store() is None
    assert not remember("a", "1")
    assert not is_trusted("a", "1")
