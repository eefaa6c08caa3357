"""Commands that only look at metadata start fast because nothing here imports torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MODULES = [
    "omni_rl",
    "omni_rl.contracts.schema",
    "omni_rl.contracts.hooks",
    "omni_rl.plugins.discovery",
    "omni_rl.plugins.listing",
    "omni_rl.plugins.local",
    "omni_rl.plugins.manager",
    "omni_rl.plugins.runspec",
]


@pytest.mark.ci
@pytest.mark.parametrize("module", MODULES)
def test_importing_it_imports_no_torch(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'numpy', 'diffusers', 'transformers') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
