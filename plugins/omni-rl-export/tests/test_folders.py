from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omni_rl_export.folders import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("new")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "inner" / "file").read_text() == "new"


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with new_folder(tmp_path / "out") as folder:
            (folder / content).write_text("")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]


def test_a_failure_leaves_what_was_there(tmp_path):
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("")
            raise ValueError("stop")

    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="stop"):
        fail()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == []


@pytest.mark.ci
def test_a_killed_process_leaves_no_folder_of_that_name(tmp_path):
    script = (
        "import os, pathlib, signal, sys\n"
        "from omni_rl_export.folders import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], env=os.environ, timeout=300)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert re.fullmatch(r"\.tmp-[0-9a-f]{16}-out", left)
    with new_folder(tmp_path / "out") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["out"]
