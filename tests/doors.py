"""Toy parts that dock where other machines will: a backend, an experience source and a launcher, each the smallest.

A local plugin of the runs in test_doors.py, and the program of the processes that these parts start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.authoring.engine import Hooks, from_pipe, pack, packed, rebuild, run_entry, unpack, unpacked
from omni_rl.contracts import Config, Context, Evaluation, Experience, LoadedModel, RunSpec, State
from omni_rl.errors import RunError, UserError
from omni_rl.schedulers import Transition
from omni_rl_flow_grpo import FlowGRPO
from omni_rl_testing.toy import toy_model

# ------------------------------------------------------------------------- a backend whose weights are somewhere else


class Link:
    """A process that answers one call after the other; what crosses is JSON lines and safetensors files."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, __file__, "backend", self._folder.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, name: str, tensors: Mapping[str, torch.Tensor], **arguments: Any) -> Any:
        """The answer's JSON, or the error of the user that it is; tensors are in :meth:`tensors` afterwards."""
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answered is not None
        save_file({n: t.contiguous() for n, t in tensors.items()}, Path(self._folder.name) / "asked.safetensors")
        asked.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
        asked.flush()
        line = answered.readline()
        if not line:
            raise RunError(f"the backend's process ended with code {self._process.wait()}")
        return unpack(line)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Of the last answer."""
        return load_file(Path(self._folder.name) / "answered.safetensors")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate("\n", timeout=60)
        self._folder.cleanup()


class Elsewhere:
    """Core's own backend in another process: of its own, or of a link that several backends share."""

    model = None

    def __init__(self, context: Context, link: Link | None = None) -> None:
        self._link = link or Link()
        self._close = self._link.close if link is None else lambda: None
        self._number = self._link.call("start", {}, spec=context.spec.to_json())
        self.tensors = self._link.tensors
        self.policy = RemotePolicy(self)

    def call(self, name: str, tensors: Mapping[str, torch.Tensor] | None = None, **arguments: Any) -> Any:
        """A method of the process's backend."""
        return self._link.call(name, tensors or {}, number=self._number, **arguments)

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
        self._close()


class RemotePolicy:
    """What the gate asks a policy for."""

    device = torch.device("cpu")

    def __init__(self, backend: Elsewhere) -> None:
        self._backend = backend
        self._copy = "trained"
        self.named: dict[str, Any] = {}

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        self._backend.call("parameters")
        return self._backend.tensors()

    def evaluate(self, batch: TensorDict, steps: Sequence[int]) -> list[Evaluation]:
        streams = self._backend.call("evaluate", flat(batch), steps=list(steps), copy=self._copy)
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
        self._copy = copy
        try:
            yield
        finally:
            self._copy = "trained"


def flat(batch: TensorDict) -> dict[str, torch.Tensor]:
    """By keys joined with a slash; bools as bytes are safetensors' own."""
    names = {key if isinstance(key, str) else "/".join(key): key for key in batch.keys(True, True)}
    return {name: batch[key] for name, key in names.items()}


def nested(tensors: Mapping[str, torch.Tensor]) -> TensorDict:
    """The inverse of :func:`flat`."""
    rows = len(next(iter(tensors.values())))
    return TensorDict({tuple(name.split("/")): value for name, value in tensors.items()}, batch_size=[rows])


def context_of(spec: RunSpec) -> Context:
    """What a backend is built from, in this process."""
    config, hooks = Config.model_validate(spec.config), Hooks(rebuild(spec))
    algorithm = next(part for part in spec.parts if part.kind == "algorithms")
    options = FlowGRPO.Config(**algorithm.options) if algorithm.options else None
    return Context(config, None, lambda: loaded(config.model.path), hooks, spec, hooks.traits(config=options))


def loaded(folder: str) -> LoadedModel:
    """The pipeline of a folder; the testing kit's own exists in memory only."""
    if folder == "toy":
        return toy_model()
    pipe = DiffusionPipeline.from_pretrained(folder)
    return from_pipe(pipe, path=Path(folder), device=torch.device("cpu"))


class Host:
    """The process's side: one backend."""

    def __init__(self, spec: str) -> None:
        from omni_rl.training.backend import TorchBackend

        self.backend = TorchBackend(context_of(RunSpec.from_json(spec)))

    def answer(self, name: str, tensors: Mapping[str, torch.Tensor], **arguments: Any) -> tuple[Any, dict[str, Any]]:
        backend = self.backend
        if name == "update":
            return backend.update(nested(tensors), arguments["iteration"]), {}
        if name == "evaluate":
            return self._evaluated(nested(tensors), arguments["steps"], arguments["copy"])
        if name == "weights":
            sent = {name: value.clone() for name, value in backend.weights(arguments["copy"], arguments["form"])}
            return list(sent), sent
        if name == "parameters":
            return None, {n: p.detach() for n, p in backend.policy.parameters.items()}
        if name == "state":
            kept, extra = backend.state()
            return extra, kept
        if name == "load_state":
            return backend.load_state(dict(tensors), arguments["extra"]), {}
        return list(backend.weight_names(arguments["form"])), {}

    def _evaluated(self, batch: TensorDict, steps: Sequence[int], copy: str) -> tuple[Any, dict[str, Any]]:
        policy = self.backend.policy
        with torch.no_grad() if copy == "trained" else policy.weights(copy):
            found = policy.evaluate(batch, steps)
        answer = {}
        for i, each in enumerate(found):
            answer[f"{i}/log_prob"] = each.log_prob
            for stream, move in each.transitions.items():
                answer |= {f"{i}/{stream}/{f.name}": getattr(move, f.name).clone() for f in fields(Transition)}
        return list(found[0].transitions), answer


def serve(folder: Path) -> None:
    """Answer one call after the other, until an empty line; an error of the user is an answer too."""
    hosts: list[Host] = []
    while (line := sys.stdin.readline()).strip():
        asked = json.loads(line)
        tensors = load_file(folder / "asked.safetensors")
        try:
            answer, found = answer_of(hosts, asked["name"], tensors, **asked["arguments"])
            said = {"answer": answer}
        except UserError as error:
            said, found = {"error": {"kind": type(error).__name__, "what": error.what, "hint": error.hint}}, {}
        save_file({n: t.contiguous() for n, t in found.items()}, folder / "answered.safetensors")
        print(json.dumps(said), flush=True)


def answer_of(hosts: list[Host], name: str, tensors: Mapping[str, torch.Tensor], **arguments: Any) -> tuple[Any, Any]:
    """Of one of the backends; ``start`` adds one, and answers its number."""
    if name == "start":
        hosts.append(Host(**arguments))
        return len(hosts) - 1, {}
    return hosts[arguments.pop("number")].answer(name, tensors, **arguments)


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
        """What is in flight, with its samples: a resumed run trains on the same ones."""
        kept = {str(iteration): written(experience) for iteration, experience in self._ready.items()}
        return {"in_flight": sorted(self._ready), "experience": kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._ready = {int(iteration): read(kept) for iteration, kept in state.get("experience", {}).items()}

    def close(self) -> None:
        self._ready.clear()


def written(experience: Experience) -> dict[str, Any]:
    """As JSON data."""
    batch = b64encode(packed(flat(experience.batch)).numpy().tobytes()).decode()
    other = {"figures": dict(experience.figures), "samples": experience.samples, "notes": list(experience.notes)}
    return {"batch": batch, **other}


def read(kept: Mapping[str, Any]) -> Experience:
    """The inverse of :func:`written`."""
    batch = nested(unpacked(torch.frombuffer(bytearray(b64decode(kept["batch"])), dtype=torch.uint8)))
    return Experience(batch, kept["figures"], kept["samples"], kept["notes"])


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
