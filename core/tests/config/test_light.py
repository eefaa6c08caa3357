"""The configuration is read before anything heavy is imported."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import omni_rl.config

MODULES = [f"omni_rl.config.{module.name}" for module in pkgutil.iter_modules(omni_rl.config.__path__)]
HEAVY = ("torch", "numpy", "diffusers", "transformers", "huggingface_hub", "rich")


def heavy_after(code, **where):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code += f"\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, **where
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.ci
def test_no_module_imports_torch():
    assert len(MODULES) > 10
    assert heavy_after(f"import {', '.join(MODULES)}") == "[]"


@pytest.mark.ci
def test_resolving_and_explaining_import_no_more_than_the_plugins_do(project, model, pair):
    code = (
        "from omni_rl.config.resolve import resolve\nfrom omni_rl.config.explain import dump, explain\n"
        "r = resolve('config.yaml', ['train.lr=1e-3'])\nexplain(r), dump(r)"
    )
    assert heavy_after(code, cwd=project) == "[]"
