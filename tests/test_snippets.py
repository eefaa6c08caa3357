"""Every snippet of the documentation is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = [[page] for page in [ROOT / "docs/start.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]]
OTHERS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "adr"]
PAGES = [page for page in OTHERS if [page] not in TUTORIALS]
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "core/README.md", *sorted(ROOT.glob("plugins/*/*.md"))]


def run(*pages: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools/snippets.py", *pages]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.full  # `nox -s docs` runs them, too
@pytest.mark.parametrize("pages", [*TUTORIALS, PAGES, READMES], ids=lambda pages: pages[0].stem)
def test_snippets_do_what_is_shown(pages: list[Path]) -> None:
    done = run(*pages)
    assert done.returncode == 0, done.stdout + done.stderr


WRONG = {
    "python that raises": ("```python\nx = 1\nassert x == 2\n```", "page.md:2:.*line 3, in <module>.*AssertionError"),
    "a misspelt option": ("```yaml\nrollout: {stepz: 3}\n```", "page.md:2.*stepz"),
    "output that does not come": ("```console\n$ echo one\ntwo\n```", "page.md:2.*shown:\ntwo\nhappens:\none"),
    "a command that fails": ("```console\n$ false\n```", "page.md:2.*ends with status 1"),
    "a language that nobody runs": ("```bash\necho\n```", "page.md:2: 'bash': fence it as one of"),
    "an indented block": ("A paragraph.\n\n    echo\n", "page.md:4: 'an indented block'"),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_and_placed(name: str, tmp_path: Path) -> None:
    text, said = WRONG[name]
    page = tmp_path / "page.md"
    page.write_text(text + "\n")
    done = run(page)
    assert done.returncode == 1
    assert re.search(said, done.stdout, re.DOTALL), done.stdout
