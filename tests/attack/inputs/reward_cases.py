"""Behaviours of rewards as a table: what the function does, and what the run has to make of it.

Every behaviour runs beside a reward that behaves well and writes its numbers into a file: they must be those that it
has alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cases import BASE, Case, text_of
from forked import Ended

N = 4
"""Samples of the iteration, all in one call."""

NEIGHBOUR = """
import json, pathlib
import numpy as np, torch
FILE = pathlib.Path(__file__).with_name("numbers.jsonl")
def score(batch):
    weight = torch.ones((), requires_grad=True) * 2.0
    exact = weight.dtype == torch.float32 and weight.requires_grad
    light = [m["image"].data.astype(np.float64).mean() for m in batch.media]
    values = [v + len(p) if exact else -1.0 for v, p in zip(light, batch.prompts, strict=True)]
    with FILE.open("a") as stream:
        stream.write(json.dumps(values) + "\\n")
    return values
"""

HEAD = """
import asyncio, contextlib, decimal, fractions, gc, io, locale, logging, math, multiprocessing, os, random
import signal, subprocess, sys, tempfile, threading, time, types, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import numpy as np, torch
def square(x):
    return float(x) ** 2
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__
CALLS = []
"""


class Says(NamedTuple):
    """What the run makes of a behaviour.

    Attributes:
        mean: the mean of its numbers; None if the call has no result.
        missing: the share of samples without a number.
        words: part of the reason or refusal.
        refused: the run stops.
    """

    mean: float | None = None
    missing: float = 0.0
    words: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Behaviour:
    """One row of the table.

    Attributes:
        body: the function's body, indented by four blanks, or a whole file if it contains ``def score``.
        says: what the run makes of it.
        entry: further keys of the reward's entry.
    """

    body: str
    says: Says
    entry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The reward file."""
        return HEAD + (
            self.body if "def score" in self.body else f"def score(batch):\n    n = len(batch)\n    {self.body}\n"
        )


def case_of(name: str, behaviour: Behaviour, **entry: Any) -> Case:
    """The run with this behaviour and the neighbour."""
    bad = {"name": "python", "file": "bad.py", "label": "bad", "weight": 0.0, **behaviour.entry, **entry}
    good = {"name": "python", "file": "good.py", "label": "good"}
    config = {
        **BASE,
        "rollout": {**BASE["rollout"], "group_size": N},
        "reward": [bad, good],
        "validation": {**BASE["validation"], "reward": [good]},
    }
    files = {"bad.py": behaviour.source, "good.py": NEIGHBOUR, "run.yaml": text_of(config)}
    return Case(f"a reward: {name}", {name: text.encode() for name, text in files.items()})


def fault(behaviour: Behaviour, ended: Ended, folder: Path, alone: Sequence[Any]) -> str | None:
    """Why the end is not what the table says."""
    says, text = behaviour.says, ended.said
    if "Traceback" in text:
        return "a traceback"
    if ended.code != (2 if says.refused else 0):
        return f"exit code {ended.code}"
    if says.words not in " ".join(text.split()):
        return f"does not say {says.words!r}"
    if says.refused:
        return None
    numbers = [json.loads(line) for line in (folder / "numbers.jsonl").read_text().splitlines()]
    if numbers[:2] != list(alone[:2]):
        return f"the neighbour answered {numbers[:2]}, alone {alone[:2]}"
    row = json.loads((folder / "out/metrics.jsonl").read_text().splitlines()[0])
    return _wrong_numbers(says, row)


def _wrong_numbers(says: Says, row: Mapping[str, float]) -> str | None:
    if not math.isclose(row["reward/missing_ratio"], says.missing):
        return f"{row['reward/missing_ratio']} of the samples are missing"
    mean = row.get("reward/bad/mean")
    if says.mean is not None and (mean is None or not math.isclose(mean, says.mean, rel_tol=1e-6, abs_tol=1e-45)):
        return f"the mean is {mean}"
    return None


def _number(body: str, mean: float, **entry: Any) -> Behaviour:
    return Behaviour(body, Says(mean), entry)


def _lost(body: str, words: str, **entry: Any) -> Behaviour:
    return Behaviour(body, Says(None, 1.0, words), entry)


def _refused(body: str, words: str) -> Behaviour:
    return Behaviour(f"{body}\n    return [1.0] * n", Says(words=words, refused=True))


ONE = "return [1.0] * n"
FINITE = "not a finite number in fp32"
NUMBERS = {
    "floats": _number("return [0.5] * n", 0.5),
    "ints": _number("return [3] * n", 3),
    "bools": _number("return [True, False] * (n // 2)", 0.5),
    "a tuple": _number("return (1.0,) * n", 1),
    "a range": _number("return range(n)", 1.5),
    "an array": _number("return np.arange(n)", 1.5),
    "an array of bool": _number("return np.ones(n, bool)", 1),
    "float16": _number("return np.full(n, 0.5, np.float16)", 0.5),
    "a tensor": _number("return torch.arange(n)", 1.5),
    "a tensor of bf16 with a gradient": _number("return torch.ones(n, dtype=torch.bfloat16, requires_grad=True)", 1),
    "a view of a tensor": _number("return torch.arange(2 * n)[::2]", 3),
    "fractions": _number("return [fractions.Fraction(1, 4)] * n", 0.25),
    "numpy's scalars": _number("return [np.float32(0.5), np.int8(1), np.uint64(2), np.bool_(True)]", 1.125),
    "the largest in fp32": _number("return [3.4e38] + [0.0] * (n - 1)", 0.85e38),
    "the smallest": _number("return [1e-45] * n", 1e-45),
    "minus zero": _number("return [-0.0] * n", 0),
    "negative numbers": _number("return [-1e6] * n", -1e6),
    "an async function": _number(
        "async def score(batch):\n    await asyncio.sleep(0.01)\n    return [2.0] * len(batch)", 2
    ),
    "an awaitable": _number("return asyncio.sleep(0.01, [2.0] * n)", 2),
    "a group reward": _number("return [float(batch.uids.count(u)) for u in batch.uids]", N, scope="group"),
    "threads": _number("with ThreadPoolExecutor(2) as pool:\n        return list(pool.map(square, range(n)))", 3.5),
    "a thread that stays": _number(
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n    " + ONE, 1
    ),
    "a program": _number("return [float(subprocess.run(['echo', '2'], capture_output=True).stdout)] * n", 2),
    "a program that stays": _number("subprocess.Popen(['sleep', '60'])\n    " + ONE, 1),
    "prints": _number("print('scoring', n)\n    " + ONE, 1),
    "prints to stderr": _number("print('scoring', file=sys.stderr)\n    " + ONE, 1),
    "prints 1 MB": _number("print('x' * 10**6, file=sys.stderr)\n    " + ONE, 1),
    "logs": _number("logging.getLogger('mine').error('odd')\n    " + ONE, 1),
    "warns": _number("warnings.warn('odd')\n    " + ONE, 1),
    "draws numbers": _number("torch.randn(3); random.random(); np.random.rand(2)\n    " + ONE, 1),
    "draws many numbers": _number("torch.randn(10**6); np.random.rand(10**6)\n    " + ONE, 1),
    "its own generator": _number("torch.Generator().manual_seed(1); np.random.default_rng(1)\n    " + ONE, 1),
    "undoes its changes": _number(
        "with torch.no_grad(), torch.random.fork_rng():\n        torch.manual_seed(1)\n    " + ONE, 1
    ),
    "autocast": _number(
        "with torch.autocast('cpu', torch.bfloat16):\n        return (torch.ones(n, 2) @ torch.ones(2)).float()", 2
    ),
    "inference mode": _number("with torch.inference_mode():\n        return torch.ones(n)", 1),
    "a gradient": _number("w = torch.ones(n, requires_grad=True); w.sum().backward()\n    return w.grad", 1),
    "clears its metadata": _number("[row.clear() for row in batch.metadata]\n    " + ONE, 1),
    "clears its lists": _number("batch.media.clear(); batch.prompts.clear(); batch.uids.clear()\n    " + ONE, 1),
    "a copy of the pixels": _number("[m['image'].data.copy().fill(0) for m in batch.media]\n    " + ONE, 1),
    "keeps the batch": _number("CALLS.append(batch)\n    " + ONE, 1),
    "collects garbage": _number("gc.collect()\n    " + ONE, 1),
    "an environment variable": _number("os.environ['OMNI_X'] = '7'\n    " + ONE, 1),
    "a search path": _number("sys.path.insert(0, '/nowhere')\n    " + ONE, 1),
    "filters of warnings": _number("warnings.simplefilter('error')\n    " + ONE, 1),
    "a locale": _number("locale.setlocale(locale.LC_ALL, 'C.UTF-8')\n    " + ONE, 1),
    "numpy's errors": _number("np.seterr(all='raise')\n    " + ONE, 1),
    "a deeper recursion": _number("sys.setrecursionlimit(5000)\n    " + ONE, 1),
    "no logging": _number("logging.disable(logging.CRITICAL)\n    " + ONE, 1),
    "200 MB": _number("x = np.ones(25 * 10**6); return [float(x[0])] * n", 1),
    "a temporary file": _number("with tempfile.NamedTemporaryFile() as f:\n        f.write(b'x')\n    " + ONE, 1),
    "fails once": _number("CALLS.append(1)\n    if len(CALLS) == 1: raise ValueError('not yet')\n    " + ONE, 1),
    "a lambda": _number("score = lambda batch: [1.0] * len(batch)  # def score", 1),
    "a partial": _number(
        "import functools\nscore = functools.partial(lambda x, batch: [x] * len(batch), 2.0)  # def score", 2
    ),
    "an object": _number(
        "class S:\n    def __call__(self, batch):\n        return [3.0] * len(batch)\nscore = S()  # def score", 3
    ),
    "a fork pool": _number(
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n        return pool.map(square, range(n))", 3.5
    ),
    "a spawn pool": _number(
        "with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:\n        "
        "return list(pool.map(square, range(n)))",
        3.5,
    ),
    "forks by itself": _number("pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0)\n    " + ONE, 1),
    "its own event loop": _number("return asyncio.run(asyncio.sleep(0, [2.0] * n))", 2),
}
PARTS = {
    "None for one": Behaviour("return [None] + [1.0] * (n - 1)", Says(1.0, 1 / N)),
    "NaN for one": Behaviour("return [math.nan] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "infinity for one": Behaviour("return [math.inf] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "1e39 for one": Behaviour("return [1e39] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "10**400 for one": Behaviour("return [10**400] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "10**5000 for one": Behaviour("return [10**5000] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "text for one": Behaviour("return ['1.0'] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "a list for one": Behaviour("return [[1.0]] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "a tensor for one": Behaviour("return [torch.tensor(1.0)] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "a Decimal for one": Behaviour("return [decimal.Decimal(1)] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "a complex number for one": Behaviour("return [1j] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "an object for one": Behaviour("return [object()] + [1.0] * (n - 1)", Says(1.0, 1 / N, FINITE)),
    "NaN of an array": Behaviour("x = np.ones(n); x[0] = np.nan; return x", Says(1.0, 1 / N, FINITE)),
}
LOST = {
    "None": _lost("return None", "returned None (NoneType)"),
    "nothing for all": _lost("return [None] * n", "none of the iteration's 4 samples has a reward"),
    "NaN for all": _lost("return [math.nan] * n", FINITE),
    "one number": _lost("return 0.5", "returned 0.5 (float)"),
    "a text": _lost("return 'good'", "(str)"),
    "bytes": _lost("return b'1234'", "(bytes)"),
    "a mapping": _lost("return {i: 1.0 for i in range(n)}", "(dict)"),
    "a set": _lost("return {1.0, 2.0, 3.0, 4.0}", "(set)"),
    "a generator": _lost("return (1.0 for _ in range(n))", "(generator)"),
    "a map": _lost("return map(float, range(n))", "(map)"),
    "an iterator": _lost("return iter([1.0] * n)", "iterator)"),
    "a generator function": _lost("def score(batch):\n    yield 1.0", "(generator)"),
    "an async generator": _lost("async def score(batch):\n    yield 1.0", "(async_generator)"),
    "a class": _lost("return list", "(type)"),
    "too few": _lost("return [1.0] * (n - 1)", "returned 3 scores for 4 samples"),
    "too many": _lost("return [1.0] * (n + 1)", "returned 5 scores for 4 samples"),
    "none": _lost("return []", "returned 0 scores"),
    "endless": _lost("return range(10**12)", "returned 1000000000000 scores"),
    "nested": _lost("return [[1.0] * n]", "returned 1 scores"),
    "two dimensions": _lost("return np.ones((n, 2))", FINITE),
    "a column": _lost("return torch.ones(n, 1)", FINITE),
    "no dimension": _lost("return torch.tensor(1.0)", "(Tensor)"),
    "a meta tensor": _lost("return torch.ones(n, device='meta')", "reward 'bad' failed"),
    "a sparse tensor": _lost("return torch.ones(n).to_sparse()", "reward 'bad' failed"),
    "texts in an array": _lost("return np.array(['1'] * n)", FINITE),
    "objects in an array": _lost("return np.array([None, object(), 'x', []], object)", FINITE),
    "dates": _lost("return np.array(['2020-01-01'] * n, 'datetime64[D]')", FINITE),
    "complex numbers": _lost("return torch.ones(n, dtype=torch.complex64)", FINITE),
    "raises": _lost("raise ValueError('no model')", "ValueError: no model"),
    "raises without text": _lost("raise ValueError", "ValueError"),
    "raises 1 MB": _lost("raise ValueError('x' * 10**6)", "ValueError: xxx"),
    "raises 1,000 lines": _lost("raise ValueError('x\\n' * 1000)", "ValueError"),
    "raises control characters": _lost("raise ValueError('\\x1b[31m\\x00\\ud800')", "ValueError"),
    "raises what cannot be printed": _lost("raise Unprintable", "Unprintable"),
    "raises a chain": _lost(
        "try:\n        1 / 0\n    except Exception as e:\n        raise Unprintable from e", "Unprintable"
    ),
    "raises a group": _lost("raise ExceptionGroup('two', [ValueError('first'), Unprintable()])", "ValueError: first"),
    "raises BaseException": _lost("raise BaseException('odd')", "BaseException: odd"),
    "raises KeyboardInterrupt": _lost("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises GeneratorExit": _lost("raise GeneratorExit", "GeneratorExit"),
    "raises StopIteration": _lost("raise StopIteration", "StopIteration"),
    "raises TimeoutError": _lost("raise TimeoutError('no answer')", "TimeoutError: no answer"),
    "raises CancelledError": _lost("raise asyncio.CancelledError", "CancelledError"),
    "async raises CancelledError": _lost("async def score(batch):\n    raise asyncio.CancelledError", "CancelledError"),
    "async raises TimeoutError": _lost(
        "async def score(batch):\n    raise TimeoutError('no answer')", "TimeoutError: no answer"
    ),
    "async raises SystemExit": _lost("async def score(batch):\n    raise SystemExit(0)", "SystemExit"),
    "async cancels itself": _lost(
        "async def score(batch):\n    asyncio.current_task().cancel()\n    await asyncio.sleep(1)", "Cancelled"
    ),
    "sys.exit": _lost("sys.exit(0)", "SystemExit"),
    "os._exit": _lost("os._exit(0)", "os._exit(0)"),
    "quit": _lost("quit()", "SystemExit"),
    "too deep": _lost("def f(x): return f(x)\n    f(1)", "RecursionError"),
    "no memory": _lost("raise MemoryError", "MemoryError"),
    "an assertion": _lost("assert n == 0", "AssertionError"),
    "a missing key": _lost("return [m['video'] for m in batch.media]", "KeyError: 'video'"),
    "a missing module": _lost("import no_such_module", "no_such_module"),
    "a list that raises": _lost(
        "class L(list):\n        def __len__(self): raise Unprintable\n    return L([1.0] * n)", "Unprintable"
    ),
    "an object that raises": _lost(
        "class O:\n        def __getattr__(self, name): raise Unprintable\n        __repr__ = None\n    return O()",
        "(O)",
    ),
    "an array that lies": _lost(
        "class A(np.ndarray):\n        def tolist(self): return 7\n    return np.ones(n).view(A)",
        "reward 'bad' returned",
    ),
    "writes pixels": _lost("batch.media[0]['image'].data[:] = 0", "read-only"),
    "hangs": _lost("time.sleep(50)", "did not answer within 1 s", timeout_s=1),
    "hangs in a loop": _lost("while True: pass", "did not answer within 1 s", timeout_s=1),
    "hangs async": _lost(
        "async def score(batch):\n    await asyncio.sleep(50)", "did not answer within 1 s", timeout_s=1
    ),
    "hangs in an async loop": _lost(
        "async def score(batch):\n    time.sleep(50)", "did not answer within 1 s", timeout_s=1
    ),
    "waits for itself": _lost("threading.Event().wait(50)", "did not answer within 1 s", timeout_s=1),
    "asks for input": _lost("input()", "EOFError"),
}
REFUSED = {
    "needs another argument": Behaviour(
        "def score(batch, device):\n    return []", Says(words="must take one argument", refused=True)
    ),
    "default dtype": _refused("torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "grad mode": _refused("torch.set_grad_enabled(False)", "torch's grad mode"),
    "threads of torch": _refused("torch.set_num_threads(7)", "torch's number of threads"),
    "matmul precision": _refused("torch.set_float32_matmul_precision('medium')", "float32 matmul precision"),
    "deterministic algorithms": _refused(
        "torch.use_deterministic_algorithms(True)", "torch's deterministic algorithms"
    ),
    "cudnn": _refused("torch.backends.cudnn.benchmark = True", "torch.backends.cudnn.benchmark"),
    "seed of torch": _refused("torch.manual_seed(1)", "the seed of torch"),
    "seed of numpy": _refused("np.random.seed(1)", "the seed of numpy.random"),
    "seed of random": _refused("random.seed(1)", "the seed of random"),
    "working folder": _refused("os.chdir('/')", "the working folder"),
    "stdout": _refused("sys.stdout = io.StringIO()", "sys.stdout"),
    "closed stdout": _refused("sys.stdout.close()", "sys.stdout"),
    "closed file of stdout": _refused("os.close(1)", "sys.stdout"),
    "stderr": _refused("sys.stderr = None", "sys.stderr"),
    "pixels through torch": _refused("torch.from_numpy(batch.media[0]['image'].data).zero_()", "image"),
    "unlocked pixels": _refused("d = batch.media[0]['image'].data; d.flags.writeable = True; d[:] = 0", "image"),
    "default device": _refused("torch.set_default_device('meta')", "torch's default device"),
    "inference mode for ever": _refused(
        "CALLS.append(torch.inference_mode()); CALLS[-1].__enter__()", "torch's inference mode"
    ),
    "autocast for ever": _refused("torch.autocast('cpu', torch.bfloat16).__enter__()", "autocast"),
    "anomaly mode": _refused("torch.autograd.set_detect_anomaly(True)", "anomaly"),
    "umask": _refused("os.umask(0o777)", "the umask"),
    "alarm": _refused("signal.alarm(60)", "signal.alarm"),
    "determinism of cudnn": _refused("torch.backends.cudnn.deterministic = True", "cudnn.deterministic"),
}
TABLE: Mapping[str, Behaviour] = {**NUMBERS, **PARTS, **LOST, **REFUSED}
