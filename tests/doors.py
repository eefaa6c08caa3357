"""Toy parts that dock where other machines will: a backend, an experience source and a launcher, each the smallest.

A local plugin of the runs in test_doors.py, and the program of the processes that these parts start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.authoring.engine import pack, run_entry, unpack
from omni_rl.contracts import Context, Evaluation, Experience, RunSpec, State
from omni_rl.schedulers import Transition
from omni_rl_flow_grpo import FlowGRPO

# ------------------------------------------------------------------------- a backend whose weights are somewhere else


class Elsewhere:
    """Core's own backend in a process of its own; what crosses is JSON lines and safetensors files."""

    model = None

    def __init__(self, context: Context) -> None:
        self._folder = Path(tempfile.mkdtemp())
        command = [sys.executable, __file__, "backend", str(self._folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.call("start", spec=context.spec.to_json())
        self.policy = RemotePolicy(self)

    def call(self, name: str, tensors: Mapping[str, torch.Tensor] | None = None, **arguments: Any) -> Any:
        """A method of the process's backend: its answer's JSON; tensors are in :meth:`tensors` afterwards."""
        save_file({n: t.contiguous() for n, t in (tensors or {}).items()}, self._folder / "asked.safetensors")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Of the last answer."""
        return load_file(self._folder / "answered.safetensors")

    def update(self, batch: TensorDict, iteration: int) -> dict[str, float]:
        return self.call("update", flat(batch), iteration=iteration)

    def weights(self, copy: str, form: str) -> Any:
        names = self.call("weights", copy=copy, form=form)
        sent = self.tensors()
        return ((name, sent[name]) for name in names)

    def weight_names(self, form: str) -> Sequence[str]:
        return self.call("weight_names", form=form)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        extra = self.call("state")
        return self.tensors(), extra

    def load_state(self, tensors: Mapping[str, torch.Tensor], extra: Mapping[str, Any]) -> None:
        self.call("load_state", tensors, extra=dict(extra))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate("\n", timeout=60)


class RemotePolicy:
    """What the gate asks a policy for."""

    device = torch.device("cpu")

    def __init__(self, backend: Elsewhere) -> None:
        self._backend = backend
        self.named: dict[str, Any] = {}

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        self._backend.call("parameters")
        return self._backend.tensors()

    def evaluate(self, batch: TensorDict, steps: Sequence[int]) -> list[Evaluation]:
        streams = self._backend.call("evaluate", flat(batch), steps=list(steps))
        found = self._backend.tensors()
        return [
            Evaluation(
                found[f"{i}/log_prob"],
                {s: Transition(**{f.name: found[f"{i}/{s}/{f.name}"] for f in fields(Transition)}) for s in streams},
            )
            for i in range(len(steps))
        ]

    @contextmanager
    def weights(self, copy: str) -> Any:
        raise AssertionError(f"these runs keep no copy, {copy} neither")


def flat(batch: TensorDict) -> dict[str, torch.Tensor]:
    """By keys joined with a slash; bools as bytes are safetensors' own."""
    names = {key if isinstance(key, str) else "/".join(key): key for key in batch.keys(True, True)}
    return {name: batch[key] for name, key in names.items()}


def nested(tensors: Mapping[str, torch.Tensor]) -> TensorDict:
    """The inverse of :func:`flat`."""
    rows = len(next(iter(tensors.values())))
    return TensorDict({tuple(name.split("/")): value for name, value in tensors.items()}, batch_size=[rows])


class Host:
    """The process's side."""

    def __init__(self, spec: str) -> None:
        from omni_rl.run.assembly import context_of, sampling_hooks
        from omni_rl.run.spec import resolved_of
        from omni_rl.training.backend import TorchBackend

        resolved = resolved_of(RunSpec.from_json(spec))
        self.backend = TorchBackend(context_of(resolved, sampling_hooks(resolved), None))

    def answer(self, name: str, tensors: Mapping[str, torch.Tensor], **arguments: Any) -> tuple[Any, dict[str, Any]]:
        backend = self.backend
        if name == "update":
            return backend.update(nested(tensors), arguments["iteration"]), {}
        if name == "evaluate":
            return self._evaluated(nested(tensors), arguments["steps"])
        if name == "weights":
            sent = dict(backend.weights(arguments["copy"], arguments["form"]))
            return list(sent), sent
        if name == "parameters":
            return None, {n: p.detach() for n, p in backend.policy.parameters.items()}
        if name == "state":
            kept, extra = backend.state()
            return extra, kept
        if name == "load_state":
            return backend.load_state(dict(tensors), arguments["extra"]), {}
        return list(backend.weight_names(arguments["form"])), {}

    def _evaluated(self, batch: TensorDict, steps: Sequence[int]) -> tuple[Any, dict[str, Any]]:
        with torch.no_grad():
            found = self.backend.policy.evaluate(batch, steps)
        answer = {}
        for i, each in enumerate(found):
            answer[f"{i}/log_prob"] = each.log_prob
            for stream, move in each.transitions.items():
                answer |= {f"{i}/{stream}/{f.name}": getattr(move, f.name).clone() for f in fields(Transition)}
        return list(found[0].transitions), answer


def serve(folder: Path) -> None:
    """Answer one call after the other, until an empty line."""
    host = None
    while (line := sys.stdin.readline()).strip():
        asked = json.loads(line)
        tensors = load_file(folder / "asked.safetensors")
        if host is None:
            host, answer, found = Host(**asked["arguments"]), None, {}
        else:
            answer, found = host.answer(asked["name"], tensors, **asked["arguments"])
        save_file({n: t.contiguous() for n, t in found.items()}, folder / "answered.safetensors")
        print(json.dumps(answer), flush=True)


# --------------------------------------------------------------------------------- a source that is one iteration ahead


class Ahead:
    """Asks for the next iteration's samples before this one's are trained on."""

    staleness = 1

    def __init__(self, sampled: Any) -> None:
        self._sampled = sampled
        self._ready: dict[int, Experience] = {}

    def next(self, state: State) -> Experience:
        for iteration in (state.iteration, state.iteration + 1):
            if iteration not in self._ready:
                self._ready[iteration] = self._sampled.next(State(iteration, state.policy_version))
        return self._ready.pop(state.iteration)

    def held_out(self, state: State) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"in_flight": sorted(self._ready)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._ready.clear()

    def close(self) -> None:
        self._ready.clear()


class Eager(FlowGRPO):
    """FlowGRPO that samples ahead."""

    @hookimpl
    def experience_source(self, sampled: Any) -> Any:
        return Ahead(sampled)


class Understated(FlowGRPO):
    """The same, which claims to be on-policy."""

    @hookimpl
    def experience_source(self, sampled: Any) -> Any:
        source = Ahead(sampled)
        source.staleness = 0
        return source


# ------------------------------------------------------------------------------------------ a launcher somewhere else


def in_another_process(spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
    """Run the entry there, and hand back what it answers."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, __file__, "run", str(answer)]
        subprocess.run(command, input=pack(spec, entry, arguments), text=True, check=True, cwd=folder)
        return unpack(answer.read_text())


OMNI_RL = {
    "backends": {"elsewhere": Elsewhere},
    "algorithms": {"eager": Eager, "understated": Understated},
    "launchers": {"another_process": in_another_process},
}

if __name__ == "__main__":
    role, place = sys.argv[1], Path(sys.argv[2])
    if role == "backend":
        serve(place)
    else:
        place.write_text(run_entry(sys.stdin.read()))
