"""Rules about the files of this repository that no other tool checks."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from omni_rl.contracts.hooks import CONTRACT_MAJOR
from omni_rl.contracts.schema import Config

ROOT = Path(__file__).parents[1]
PACKAGES = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
CORE_SOURCE = ROOT / "core/src/omni_rl"
CONVERTER = ROOT / "plugins/omni-rl-preference-rewards/src/omni_rl_preference_rewards/convert.py"
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))

MAX_LINES = 400
MAX_SHIPPED_BYTES = 20 * 10**6

REGISTRY = re.compile(
    r"pypi\.org|pythonhosted|test\.pypi|download\.pytorch|conda\.anaconda|(extra-)?index[-_]url|find[-_]links"
    r"|\b\w+\.(artifactory|jfrog|pkg\.dev|azurecr|amazonaws)\b|\bdocker\.io|\bghcr\.io|file://",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.:/$}])/(work|farm|root|home/\w|Users/\w|opt|mnt|scratch)/\S")
# Architectures by the words that name them. Capitalised as in class names: "flux" is also a physicist's word.
MODEL = re.compile(
    r"\b(Aura|Bagel|Bria|Chroma|Cog(View|Video)|Cosmos|Flux|FLUX|HiDream|Hunyuan|Kandinsky|LTX|Lumina|Ovis|Qwen|SD3"
    r"|Sana|StableDiffusion|Wan(?!t)|ZImage)"
)


@cache
def files() -> list[Path]:
    """Every file of the checkout that .gitignore does not name; works in a copy without git, too."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = [line.strip("/") for line in lines if line and not line.startswith("#")]
    return sorted(_walk(ROOT, [".git", *ignored]))


def _walk(folder: Path, ignored: list[str]) -> Iterator[Path]:
    for path in folder.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in ignored) or path.is_symlink():
            continue
        if path.is_dir():
            yield from _walk(path, ignored)
        else:
            yield path


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures


def python_files() -> list[Path]:
    return [path for path in files() if path.suffix == ".py" and "plugin-template" not in path.parts]


def hits(pattern: re.Pattern[str], path: Path, text: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def project(package: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


def requirements(package: Path) -> set[str]:
    """The names of what a package requires, extras included."""
    metadata = project(package)
    lists = [metadata["dependencies"], *metadata.get("optional-dependencies", {}).values()]
    return {re.split(r"[^\w-]", requirement)[0] for each in lists for requirement in each}


def tool(name: str) -> dict[str, Any]:
    """A tool's settings in the root pyproject.toml."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][name]
    return settings


def entry_points(package: Path) -> list[tuple[str, str, str]]:
    """(group, key, target) of every entry point that a package declares."""
    groups = project(package).get("entry-points", {})
    return [(group, key, target) for group, entries in groups.items() for key, target in entries.items()]


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE_PATH], ids=["registry", "machine path"])
def test_nothing_names_a_registry_or_a_machine(pattern: re.Pattern[str]) -> None:
    """A checkout works wherever it lies and wherever its packages come from."""
    assert [hit for path, text in texts() if path != Path(__file__) for hit in hits(pattern, path, text)] == []


def test_python_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def imports_of(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def calls_of(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_is_pickled() -> None:
    """Weights and trajectories are safetensors and JSON, in tests too."""
    picklers = {"cloudpickle", "dill", "joblib", "pickle", "shelve"}
    assert {str(path): found for path in python_files() if (found := imports_of(path) & picklers)} == {}


def test_no_unsafe_loading() -> None:
    """A test may write a pickle, to see it refused; nothing may read one, but CONVERTER, and that as tensors alone."""
    unsafe = {"torch.load", "yaml.load", "yaml.unsafe_load"}
    wrong = []
    for path in python_files():
        forbidden = unsafe if "tests" in path.parts else unsafe | {"torch.save"}
        for call in calls_of(path):
            switched_on = [keyword.arg for keyword in call.keywords if ast.unparse(keyword.value) == "True"]
            converts = path == CONVERTER and ast.unparse(call.func) == "torch.load" and "weights_only" in switched_on
            if (ast.unparse(call.func) in forbidden and not converts) or "trust_remote_code" in switched_on:
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert wrong == []


def test_core_names_no_model() -> None:
    """Knowing a model is a plugin's business. The generated index of plugins is the one exception."""
    sources = [(path, text) for path, text in texts() if path.is_relative_to(CORE_SOURCE)]
    assert [hit for path, text in sources if path.name != "known_plugins.json" for hit in hits(MODEL, path, text)] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_it_is(package: Path) -> None:
    metadata = project(package)
    contract = [(key, target) for group, key, target in entry_points(package) if group == "omni_rl.contract"]
    assert [key for key, _ in contract] == [str(CONTRACT_MAJOR)]
    assert metadata["readme"] == "README.md"
    assert len((package / "README.md").read_text(encoding="utf-8")) > 200
    assert metadata["license"] == "Apache-2.0"
    assert metadata["requires-python"] == ">=3.11"
    assert (package / "src" / contract[0][1] / "py.typed").exists()
    assert any((package / "tests").rglob("test_*.py"))


def test_what_packages_need_of_each_other_is_taken_from_the_workspace() -> None:
    """uv refuses to install a member that needs another one which has no line in ``tool.uv.sources``."""
    names = {project(package)["name"] for package in PACKAGES}
    needed = {name for package in PACKAGES for name in requirements(package) if name in names}
    assert tool("uv")["sources"] == {name: {"workspace": True} for name in needed}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_entry_points_lead_somewhere(package: Path) -> None:
    for group, key, target in entry_points(package):
        module, _, name = target.partition(":")
        stem = package / "src" / module.replace(".", "/")
        source = next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()), None)
        assert source is not None, f"{group}: {key} = {target}"
        assert not name or re.search(rf"\b{name}\b", source.read_text(encoding="utf-8")), f"{group}: {key} = {target}"


def test_what_is_shipped_is_small() -> None:
    shipped = [path for path in files() for package in PACKAGES if path.is_relative_to(package / "src")]
    assert sum(path.stat().st_size for path in shipped) < MAX_SHIPPED_BYTES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_is_a_configuration(example: Path) -> None:
    Config.model_validate(yaml.safe_load(example.read_text(encoding="utf-8")))


def test_every_yaml_parses() -> None:
    for path, text in texts():
        if path.suffix in {".yaml", ".yml"}:
            list(yaml.safe_load_all(text))


def test_links_lead_somewhere() -> None:
    """Relative links of Markdown files."""
    broken = []
    for path, text in texts():
        if path.suffix == ".md" and "plugin-template" not in path.parts:
            links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
            broken += [f"{path.relative_to(ROOT)}: {link}" for link in links if not (path.parent / link).exists()]
    assert broken == []


def test_changelog_fragments() -> None:
    """`changelog/<id>.<type>.md`, beginning with one of our packages in backticks."""
    types = {entry["directory"] for entry in tool("towncrier")["type"]}
    names = {project(package)["name"] for package in PACKAGES}
    for fragment in (ROOT / "changelog").glob("*.md"):
        if fragment.name == "README.md":
            continue
        assert fragment.suffixes[-2].removeprefix(".") in types, fragment.name
        package = re.match(r"`([\w-]+)`: \S", fragment.read_text(encoding="utf-8"))
        assert package, fragment.name
        assert package[1] in names, fragment.name


def test_the_readme_and_ci_run_the_same_command() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    command = re.search(r"python -m pip install .* -s tests", script)
    assert command, "no test command in .ci/run"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert command[0] in readme
    assert command[0].replace("-s tests", "-s quickstart") in readme


def test_the_template_travels_with_omni_rl_testing() -> None:
    """In a checkout the template is a link; in a wheel it is a copy of what the link shows."""
    link = ROOT / "plugins/omni-rl-testing/src/omni_rl_testing/_template"
    assert link.resolve() == (ROOT / "plugin-template").resolve()
