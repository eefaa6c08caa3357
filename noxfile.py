# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5", "uv>=0.8"]
# ///
"""One way to run anything: `python -m pip install nox`, then `python -m nox -s SESSION`.

Every session builds its own environment under .nox/ and installs core and the plugins from this checkout. `-R` skips
the installation on later runs; what follows `--` goes to the program that the session runs:
`python -m nox -R -s fast -- core/tests/run/test_collect.py -x`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import nox

ROOT = Path(__file__).parent
CORE = "core[parquet,video]"
EXTRAS = {"omni-rl-testing": "[new]", "omni-rl-trackers": "[mlflow,swanlab,tensorboard]"}
PACKAGES = sorted(
    f"{path.parent.relative_to(ROOT)}{EXTRAS.get(path.parent.name, '')}"
    for path in ROOT.glob("plugins/*/pyproject.toml")
)
VLLM_OMNI = [package for package in PACKAGES if "vllm-omni" in package]  # it pins torch, diffusers and transformers
VEOMNI = "plugins/omni-rl-veomni"  # it does not work with the newest transformers
APART = [*VLLM_OMNI, VEOMNI]
PLUGINS = [package for package in PACKAGES if package not in APART]
TINY = "plugins/omni-rl-tiny"
TESTING = "plugins/omni-rl-testing[new]"
PYTHONS = ["3.11", "3.13"]
PROJECT = nox.project.load_toml("pyproject.toml")
NOT_FULL = ("-m", "not full")
TEMPLATES = {  # kind -> what a configuration says to use it
    "model": ["model.path={model}", "model.plugin={distribution}", "rollout.call.height=16", "rollout.call.width=24"],
    "algorithm": ["algorithm.name={key}"],
    "reward": ["reward={key}"],
    "engine": ["rollout.engine={key}"],
    "tracker": ["tracker={key}"],
}

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "fast"]


def install(session: nox.Session, *extra: str, packages: Sequence[str] = (CORE, *PLUGINS)) -> None:
    """Install packages of this checkout, editable, beside ``extra`` requirements."""
    session.install(*(arg for package in packages for arg in ("-e", package)), *extra)
    session.env["HF_HUB_OFFLINE"] = "1"  # nothing here needs a model hub, and nothing may come to need one
    session.env["PYTHONDONTWRITEBYTECODE"] = None  # without bytecode every process spends 15 s compiling its imports


def folder_of(package: str) -> str:
    """The folder of a requirement such as ``plugins/omni-rl-testing[new]``."""
    return package.partition("[")[0]


def group(name: str) -> list[str]:
    """The requirements of a dependency group of the root pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def run_tests(session: nox.Session, *args: str) -> None:
    """Run pytest with one torch thread per worker (the models are too small for more); a worker takes about 1.5 GB."""
    workers = ("-n", "auto", "--maxprocesses", "8", "--dist", "loadgroup")  # one test at a time: some take minutes
    session.run("pytest", *workers, *args, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def quickstart(session: nox.Session) -> None:
    """Train the shipped small model and show what it learned."""
    install(session)
    session.run("omni-rl", "train", "examples/quickstart.yaml", *session.posargs)
    session.log(f"to go on from here: source {Path(session.bin).relative_to(ROOT)}/activate, then omni-rl --help")


@nox.session
def tests(session: nox.Session) -> None:
    """The fast and the ci tier: what has to pass before a change is merged."""
    install(session, *group("test"))
    run_tests(session, *NOT_FULL)


@nox.session
def coverage(session: nox.Session) -> None:
    """The same tests with core's coverage, which makes them half as slow again."""
    install(session, *group("test"))
    run_tests(session, *NOT_FULL, "--cov", "--cov-report=term")


@nox.session
def fast(session: nox.Session) -> None:
    """The fast tier alone."""
    install(session, *group("test"))
    run_tests(session)


@nox.session(python=PYTHONS)
def full(session: nox.Session) -> None:
    """Every test there is, with the newest supported release of everything, on both ends of the supported Pythons."""
    install(session, "--upgrade", *group("test"))
    run_tests(session, "-m", "")


@nox.session(python=PYTHONS, venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """The lower bound of everything that a package requires (where there is no wheel for it, the next release's)."""
    install(session, "--resolution", "lowest-direct", "--no-build", *group("test"))
    run_tests(session, *NOT_FULL)


@nox.session
@nox.parametrize("package", PLUGINS, ids=[Path(package).name.partition("[")[0] for package in PLUGINS])
def plugins(session: nox.Session, package: str) -> None:
    """One plugin beside core and the tiny pipelines of its tests: what it depends on is what it declares."""
    install(session, *group("test"), packages=[*dict.fromkeys((CORE, TESTING, TINY, package))])
    run_tests(session, *NOT_FULL, f"{folder_of(package)}/tests")


@nox.session(venv_backend="uv", python="3.11")
def vllm_omni(session: nox.Session) -> None:
    """The engine vllm-omni, with the real vLLM-Omni on the CPU, in the one set of versions that it works with.

    The CPU build of vLLM pins a local version of torch that the ordinary wheel satisfies in all but name, and vLLM-Omni
    requires packages that diffusion on a CPU never imports.
    """
    overrides = Path(session.create_tmp()) / "overrides.txt"
    overrides.write_text("".join(f"{pin}\n" for pin in group("vllm-omni-overrides")))
    session.install(*group("vllm-omni"), "--override", str(overrides))
    session.install(*group("vllm-omni-itself"), "--no-deps")
    local = [arg for package in (CORE, *PLUGINS, *VLLM_OMNI) for arg in ("-e", package)]
    session.install(*local, *group("test"), "--override", str(overrides))
    session.env.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": None})
    session.run(
        "pytest",
        *NOT_FULL,
        "-W",
        "default",
        *(session.posargs or [f"{folder_of(package)}/tests" for package in VLLM_OMNI]),
    )


@nox.session(venv_backend="uv", python="3.11")
def veomni(session: nox.Session) -> None:
    """The backend veomni, with the real VeOmni on the CPU, beside the newest releases that it works with."""
    beside = [TESTING, TINY, "plugins/omni-rl-flow-grpo", "plugins/omni-rl-wan", "plugins/omni-rl-qwen-image"]
    install(session, *group("veomni"), *group("test"), packages=[CORE, *beside, VEOMNI])
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", "-m", "", *(session.posargs or [f"{VEOMNI}/tests"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, the import law and types."""
    install(session, *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("mypy")


@nox.session(reuse_venv=False)
def core_alone(session: nox.Session) -> None:
    """Core without any other package of ours trains a folder model with a reward file and an algorithm file."""
    folder = Path(session.create_tmp()) / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("tests/core_alone", folder)
    install(session, packages=["core"])
    build = f"import omni_rl_tiny; omni_rl_tiny.build_random({str(folder / 'model')!r})"
    session.run("python", "-c", build, env={"PYTHONPATH": f"{TINY}/src"})  # not installed: only to make the model
    installed = "from importlib.metadata import distributions; print([d.name for d in distributions()])"
    if "omni-rl-" in (session.run("python", "-c", installed, silent=True) or ""):
        session.error("core is not alone in this environment")
    session.env["OMP_NUM_THREADS"] = "1"
    with session.chdir(folder):
        session.run("omni-rl", "train", "run.yaml", "--run-dir", "out")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation's site, built strictly into site/, and every snippet of its pages."""
    install(session, *group("test"))
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    session.run("mkdocs", "build", "--strict")
    run_tests(session, "-m", "", "tests/test_documentation.py", "tests/test_snippets.py")


@nox.session(reuse_venv=False)  # where they are installed already, their names are taken
def template(session: nox.Session) -> None:
    """`omni-rl new` gives, of each kind, a package that is clean, installs, is listed, passes and trains."""
    install(session, *group("lint"), packages=[CORE, TESTING, "plugins/omni-rl-flow-grpo", TINY])
    parent = Path(session.create_tmp()) / "plugins"
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir()
    baked = {kind: parent / f"omni-rl-example-{kind}" for kind in TEMPLATES}
    for kind, folder in baked.items():
        session.run("omni-rl", "new", kind, folder.name.removeprefix("omni-rl-"), "--output", str(parent))
    check_style(session, list(baked.values()))
    session.install(*map(str, baked.values()))  # not editable: what users get has no tests beside it
    listed = session.run("omni-rl", "plugins", silent=True) or ""
    if missing := [folder.name for folder in baked.values() if folder.name not in listed]:
        session.error(f"omni-rl plugins does not list {', '.join(missing)}:\n{listed}")
    session.env["OMP_NUM_THREADS"] = "1"
    for kind, folder in baked.items():
        with session.chdir(folder):
            session.run("pytest", *session.posargs)
        session.run("omni-rl", "conformance", folder.name)
        train_briefly(session, kind, folder.name)


def check_style(session: nox.Session, packages: Sequence[Path]) -> None:
    """What a generated README says to run, on all packages at once."""
    everything = ("--no-respect-gitignore", "--config", "exclude = []")  # ruff passes over what lies under .nox
    folders = [str(folder) for folder in packages]
    session.run("ruff", "check", *everything, *folders)
    session.run("ruff", "format", "--check", *everything, *folders)
    settings = str(packages[0] / "pyproject.toml")  # all have the same
    session.run("mypy", "--config-file", settings, *(f"{folder}/src" for folder in folders))


def train_briefly(session: nox.Session, kind: str, distribution: str) -> None:
    """Two iterations, gate included, of a run that needs the plugin."""
    module, key = distribution.replace("-", "_"), distribution.removeprefix("omni-rl-").replace("-", "_")
    runs = Path(session.create_tmp()) / "runs"
    shutil.rmtree(runs / f"{kind}-run", ignore_errors=True)
    chosen = [argument.format(key=key, model=runs / "model", distribution=distribution) for argument in TEMPLATES[kind]]
    if kind == "model":
        code = f"import pathlib, {module}.conformance as c; c.save_tiny(pathlib.Path({str(runs / 'model')!r}))"
        session.run("python", "-c", code)
    session.run("omni-rl", "train", "tests/template.yaml", *chosen, "--run-dir", str(runs / f"{kind}-run"))
