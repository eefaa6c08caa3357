"""``kill -9`` at any moment: at random ones, and before every single file operation of a save."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ci

COMMON = """
import json, os, random, shutil, signal, sys, time
import torch
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory

torch.set_num_threads(1)

def write(run, iteration, keep):
    tensors = {"policy/w": torch.full((200_000,), float(iteration)), "ema/w": torch.full((9,), -float(iteration))}
    state = {"iteration": iteration, "policy_version": 0, "architecture": "A", "model_fingerprint": "f"}
    checkpoint.save(run, tensors, state, keep)

def read(run):
    # The iteration of the latest checkpoint, after proof that all of it is of that iteration.
    path = checkpoint.latest(run)
    if path is None:
        return 0
    tensors, state = checkpoint.load(path)
    assert torch.all(tensors["policy/w"] == state["iteration"]) and torch.all(tensors["ema/w"] == -state["iteration"])
    return state["iteration"]
"""

AT_RANDOM = """
run = RunDirectory.create(sys.argv[1])
random.seed(0)
start = time.monotonic()
write(run, 1, keep=1)
patience = 5 * (time.monotonic() - start)  # long enough for some saves
history = []
for _ in range(30):
    before = read(run)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for iteration in range(before + 1, 10**6):
            write(run, iteration, keep=1 + iteration % 2)
            os.write(tell, b"x")
    time.sleep(random.uniform(0.0, patience))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(tell)
    finished = before + len(os.read(told, 10**6))
    history.append((before, finished, read(run), len(list(run.checkpoints.iterdir()))))
    os.close(told)
print(json.dumps(history))
"""

EVERYWHERE = """
def die_before(number):
    # SIGKILL just before this process's number-th file operation that Python can see.
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event.split(".")[0] in ("open", "os", "shutil"):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

template = RunDirectory.create(f"{sys.argv[1]}/template")
write(template, 2 if sys.argv[2] == "again" else 1, keep=1)  # again: an older one of the same iteration is in the way
found = []
for number in range(1, 1000):
    run = RunDirectory(f"{sys.argv[1]}/{number}")
    shutil.copytree(template.path, run.path)
    child = os.fork()
    if child == 0:
        die_before(number)
        write(run, 2, keep=1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found.append(read(run))
    write(run, 3, keep=1)
    assert read(run) == 3 and sorted(os.listdir(run.checkpoints)) == ["iteration-000003", "latest.json"], number
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
print(json.dumps(found))
"""


def in_new_process(code: str, *arguments: str) -> list:
    command = [sys.executable, "-c", COMMON + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments(tmp_path):
    history = in_new_process(AT_RANDOM, str(tmp_path / "run"))
    for before, finished, latest, entries in history:
        assert finished <= latest <= finished + 1  # a checkpoint whose save returned is never lost
        assert latest >= before
        assert entries <= 6  # nothing piles up
    assert history[-1][2] > len(history)  # the writers did get on between kills


@pytest.mark.parametrize("case", ["first", "again"])
def test_killed_before_every_file_operation(tmp_path, case):
    found = in_new_process(EVERYWHERE, str(tmp_path), case)
    assert len(found) > 15  # that many different moments
    assert found[-1] == 2
    assert set(found) == ({1, 2} if case == "first" else {2})
    assert found == sorted(found)
