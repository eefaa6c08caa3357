"""What a run records of the files that it was trained with."""

from __future__ import annotations

from pathlib import Path

from omni_rl.reporting.provenance import _identity
from omni_rl.storage.fingerprint import combined_hash


def test_a_reward_file_is_another_when_a_module_beside_it_is(tmp_path: Path):
    file, helper = tmp_path / "score.py", tmp_path / "helper.py"
    file.write_text("from helper import value\n")
    helper.write_text("value = 1\n")
    one = _identity(file)
    helper.write_text("value = 2\n")
    assert _identity(file)["sha256"] != one["sha256"]
    (tmp_path / "unused.py").write_text("")
    helper.write_text("value = 1\n")
    assert _identity(file) == one


def test_media_count_by_their_bytes(tmp_path: Path):
    one, two = tmp_path / "a.png", tmp_path / "b.png"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    before = combined_hash({str(one), str(two)})
    two.write_bytes(b"3")
    assert combined_hash({str(one), str(two)}) != before
    two.unlink()
    assert combined_hash({str(one), str(two)}) != before
