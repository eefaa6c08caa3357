from __future__ import annotations

import errno
import os
import stat

import pytest

from omni_rl.errors import RunError
from omni_rl.storage.durable import append, is_temporary, temporary, write_atomic


def test_temporary_names_cannot_be_predicted(tmp_path):
    names = {temporary(tmp_path / "a.png") for _ in range(100)}
    assert len(names) == 100
    assert all(is_temporary(name) and name.suffix == ".png" for name in names)


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_nothing_is_appended_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "rows").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="cannot write"):
        append(tmp_path / "rows", b"row\n")
    assert (tmp_path / "precious").read_text() == "mine"


def test_files_have_the_usual_permissions(tmp_path):
    earlier = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", b"")
        append(tmp_path / "b", b"")
    finally:
        os.umask(earlier)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o644, 0o644]


def test_a_line_that_does_not_fit_is_removed_again(tmp_path, monkeypatch):
    append(tmp_path / "rows", b"one\n")
    write = os.write

    def full(descriptor, data):
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match="No space left on device"):
            append(tmp_path / "rows", b"second row\n")
    assert (tmp_path / "rows").read_bytes() == b"one\n"
