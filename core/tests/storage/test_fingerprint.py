from __future__ import annotations

import os

import pytest
import safetensors.torch
import torch

from omni_rl.storage import fingerprint as module
from omni_rl.storage.fingerprint import fingerprint, matches, sampled_fingerprint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model" / "text_encoder").mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").write_text("{}")
    weights = {"w": torch.randn(400, 400, generator=torch.Generator().manual_seed(0))}
    safetensors.torch.save_file(weights, tmp_path / "model" / "text_encoder" / "model.safetensors")
    return tmp_path / "model"


def test_every_bit_counts(folder):
    file = folder / "text_encoder" / "model.safetensors"
    first, data, seen = fingerprint(folder), file.read_bytes(), set()
    for place in range(200, len(data), len(data) // 40):
        changed = bytearray(data)
        changed[place] ^= 1
        before = file.stat()
        file.write_bytes(bytes(changed))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tools do that keep times
        seen.add(fingerprint(folder))
    assert first not in seen
    assert len(seen) >= 40
    file.write_bytes(data)
    assert fingerprint(folder) == first


def test_a_file_is_read_once(folder, monkeypatch):
    first = fingerprint(folder)
    read = []
    original = module.file_hash
    monkeypatch.setattr(module, "file_hash", lambda file: read.append(file.name) or original(file))
    assert fingerprint(folder) == first
    assert read == ["model_index.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_cache_costs_only_time(folder, tmp_path, content):
    first = fingerprint(folder)
    (tmp_path / "cache/omni-rl/fingerprints.json").write_bytes(content)
    assert fingerprint(folder) == first


def test_a_home_that_cannot_be_written_costs_only_time(folder, tmp_path, monkeypatch):
    first = fingerprint(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fingerprint(folder) == first


def test_checkpoints_of_the_first_version_still_know_their_model(folder):
    stored = sampled_fingerprint(folder)
    assert matches(folder, stored)
    (folder / "model_index.json").write_text("[]")
    assert not matches(folder, stored)
