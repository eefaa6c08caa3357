"""The table of architectures is what the engine would do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # architectures

pytestmark = pytest.mark.ci


def test_the_table_is_up_to_date():
    from architectures import FILE, page

    assert FILE.read_text() == page(), f"write it anew: python {FILE.parent.name}/tests/architectures.py"
