from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from omni_rl.errors import RunError, UserError
from omni_rl.storage.lock import NAME, locked

HOLD = """
import os, sys, time
from pathlib import Path
from omni_rl.storage.lock import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(os.getpid(), child, flush=True)
    time.sleep(100)
"""


def test_the_owner_is_named_and_the_lock_goes_with_it(tmp_path):
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        with (
            pytest.raises(UserError, match=f"another process trains in .*: process {os.getpid()}") as raised,
            locked(tmp_path),
        ):
            pass
        assert f"kill {os.getpid()}" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_owner_is_taken_over_although_its_child_lives(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    owner, child = map(int, holder.stdout.readline().split())
    try:
        with pytest.raises(UserError, match=f"process {owner}"), locked(tmp_path):
            pass
        os.kill(owner, signal.SIGKILL)
        holder.wait()
        with locked(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
            with pytest.raises(UserError), locked(tmp_path):
                pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"pid": -1}', '{"pid": "x"}', '{"pid": 1e99}', '{"pid": 999999999999999}']
)
def test_a_file_that_nobody_holds_is_no_lock(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_the_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="cannot lock"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
