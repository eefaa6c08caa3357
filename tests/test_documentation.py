"""Pages of the documentation that say what tests, plugins, code and measurements say."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from omni_rl.config import fields
from omni_rl.contracts import schema

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEST_FOLDERS = ("tests", "core/tests", "plugins")
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", ROOT / "core/README.md"]
READMES += sorted(ROOT.glob("plugins/*/*.md"))


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)


def test_every_test_that_a_page_names_exists() -> None:
    pages = [path for path in DOCS.rglob("*.md") if path.parent.name != "adr"]
    named = {name for path in pages for name in re.findall(r"`(test_\w+)`", path.read_text())}
    files = [path for folder in TEST_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    defined = {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 60
    assert sorted(named - defined) == []


def test_every_file_that_a_page_names_exists() -> None:
    places = ("benchmarks", "core", "examples", "tests", "tools", "plugins")
    for path in [*DOCS.rglob("*.md"), *READMES]:
        named = re.findall(rf"`((?:{'|'.join(places)})/[\w./-]+\.\w+)`", path.read_text())
        assert [n for n in named if not any((home / n).exists() for home in (ROOT, path.parent))] == [], path


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_readme_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("tool", ["compatibility", "coverage_table", "layers"])
def test_tables_are_up_to_date(tool: str) -> None:
    done = run(f"tools/{tool}.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ci
def test_the_reference_is_up_to_date() -> None:
    """Whoever changes a hook, a key or a command describes it."""
    done = run("tools/reference.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_is_described() -> None:
    assert list(undescribed(schema.Config, "")) == []


def undescribed(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if not field.description:
            yield prefix + name
        for option in fields.options(field.annotation):
            for inner in (option, *getattr(option, "__args__", ())):
                if fields.is_model(inner):
                    yield from undescribed(inner, f"{prefix}{name}.")


def test_the_page_about_the_gate_has_every_row() -> None:
    core = ROOT / "core/src/omni_rl"
    trees = [ast.parse(path.read_text()) for path in (*(core / "gate").glob("*.py"), core / "run/equal_ranks.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [call.args[0] for call in calls if ast.unparse(call.func) in ("Row", "judge")]
    made = {name.value for name in names if isinstance(name, ast.Constant)}
    told = set(re.findall(r"^\| `([a-z ]+)` \|", (DOCS / "gate.md").read_text(), re.MULTILINE))
    assert told == made


def test_the_figures_of_the_first_run_are_the_measured_ones() -> None:
    page = (DOCS / "start.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| (0\.\d+) \| (0\.\d+) \| (\d+) s \|$", page, re.MULTILINE)
    measured = json.loads((ROOT / "benchmarks/results/quickstart_cpu.json").read_text())["runs"]
    assert len(rows) == len(measured)
    for (before, after, seconds), run_ in zip(rows, measured, strict=True):
        assert float(before) == pytest.approx(run_["before"], abs=1e-3)
        assert float(after) == pytest.approx(run_["after"], abs=1e-3)
        assert int(seconds) == pytest.approx(run_["seconds"], abs=1)


def test_the_first_configuration_is_the_quickstart() -> None:
    shown = re.search(r'```yaml title="quickstart.yaml"\n(.*?)```', (DOCS / "start.md").read_text(), re.DOTALL)
    assert shown
    kept = (ROOT / "examples/quickstart.yaml").read_text()
    assert stripped(shown[1]) == stripped(kept)


def stripped(text: str) -> list[str]:
    lines = (re.sub(r"\s*#.*", "", line) for line in text.splitlines())
    return [line for line in lines if line]


@pytest.mark.ci
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    done = run("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    fetched = re.compile(r"<(?:script|img|iframe)[^>]+src=[\"']?https?:|<link[^>]+rel=[\"']?stylesheet[^>]+https?:")
    assert [page.name for page in pages if fetched.search(page.read_text())] == []
