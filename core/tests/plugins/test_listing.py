"""What ``omni-rl plugins`` shows."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from omni_rl.errors import PluginError
from omni_rl.plugins import listing
from omni_rl.plugins.discovery import find, load

ALL = ["good", "clash", "broken", "misspelt", "unmarked", "tryfirst", "crash", "future", "past", "silent", "group"]


def fakes(rows):
    return {row.distribution.removeprefix("omni-rl-fake-"): row for row in rows if "omni-rl-fake" in row.distribution}


def test_rows_come_from_metadata_alone(install):
    folder = install(*ALL, "slow")
    rows = fakes(listing.rows())
    assert set(rows) == {*ALL, "slow"}
    assert rows["good"].offers == ("models:FakePipeline", "algorithms:fake_algorithm", "plugins:fake_observer")
    assert rows["good"].contract == "2"
    assert rows["good"].path == str(folder / "good/fake_good.py")
    assert {rows[name].status for name in ("good", "broken", "misspelt", "crash", "slow")} == {"installed"}


def test_metadata_alone_refuses_wrong_contracts_and_unknown_groups(install):
    install(*ALL)
    rows = fakes(listing.rows())
    assert {name for name, row in rows.items() if row.status == "refused"} == {"future", "past", "silent", "group"}
    assert "contract 2" in rows["future"].text
    assert "'omni_rl.model'. Did you mean 'omni_rl.models'?" in rows["group"].text


def test_a_clash_is_shown_in_the_words_of_the_run_that_meets_it(install):
    install("good", "clash")
    with pytest.raises(PluginError) as caught:
        find("models", "FakePipeline")
    rows = fakes(listing.rows())
    assert rows["good"].text == rows["clash"].text == str(caught.value)
    assert listing.texts([rows["good"], rows["clash"]]) == [str(caught.value)]
    assert rows["good"].status == "installed"


def test_hidden_distributions_are_shown_as_such_and_clash_with_nobody(install, monkeypatch):
    install("good", "clash")
    monkeypatch.setenv("OMNI_RL_DISABLE", "omni-rl-fake-clash")
    rows = fakes(listing.rows())
    assert rows["clash"].status == "hidden"
    assert "OMNI_RL_DISABLE=omni-rl-fake-clash" in rows["clash"].text
    assert rows["good"].text == ""


@pytest.mark.ci
def test_check_tells_each_fate(install):
    install(*(name for name in ALL if name != "clash"))
    before = fakes(listing.rows())
    rows = fakes(listing.check(list(before.values()), seconds=60))
    broken = {name for name, row in rows.items() if row.status == "broken"}
    assert broken == {"broken", "misspelt", "unmarked", "tryfirst", "crash"}
    assert rows["good"].status == "works"
    assert rows["future"] == before["future"]
    with pytest.raises(PluginError) as caught:
        load(find("rewards", "fake_broken"))
    assert rows["broken"].text == str(caught.value)
    assert "Did you mean 'predict'?" in rows["misspelt"].text
    assert "has the name of a hook but no hookimpl marker" in rows["unmarked"].text
    assert "tryfirst" in rows["tryfirst"].text
    assert "exit status 3" in rows["crash"].text
    assert "a library spoke" in rows["crash"].text


@pytest.mark.ci
def test_check_gives_up_on_a_slow_import(install):
    install("slow")
    row = fakes(listing.rows())["slow"]
    start = time.monotonic()
    checked = listing.check([row], seconds=2)[0]
    assert time.monotonic() - start < 20
    assert checked.status == "too slow"
    assert "omni-rl-fake-slow 1.0 was not imported within 2 s" in checked.text


def test_a_hidden_distribution_is_not_imported(install, monkeypatch):
    install("slow")
    monkeypatch.setenv("OMNI_RL_DISABLE", "*")
    row = fakes(listing.rows())["slow"]
    assert listing.check([row]) == [row]


def test_the_table_shows_every_row_and_the_texts_follow(install):
    install("good", "silent")
    rows = list(fakes(listing.rows()).values())
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(listing.table(rows))
    shown = console.export_text()
    assert "omni-rl-fake-good" in shown
    assert "algorithms:fake_algorithm" in shown
    assert "refused" in shown
    assert len(listing.texts(rows)) == 1


def test_json_holds_the_rows(install):
    install("good")
    rows = list(fakes(listing.rows()).values())
    assert json.loads(listing.to_json(rows))[0]["offers"][0] == "models:FakePipeline"
