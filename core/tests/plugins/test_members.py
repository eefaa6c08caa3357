"""Engines, backends and sources are asked at once whether they have what their protocol requires."""

from __future__ import annotations

import pytest

from omni_rl.contracts.interfaces import Engine
from omni_rl.errors import PluginError
from omni_rl.plugins.checks import require_members


class Whole:
    honours = supplies = frozenset[str]()
    notices = ()
    takes_weights = "none"

    def submit(self, requests): ...

    def completed(self): ...

    def sync(self, policy_version, weights): ...

    def close(self): ...


class OldSync(Whole):
    def sync(self, policy_version): ...


class MoreWithDefault(Whole):
    def close(self, wait=True): ...


class WithoutForm(Whole):
    takes_weights = property()


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (OldSync, r"the engine has no sync\(policy_version, weights\), which Engine requires"),
        (WithoutForm, "the engine has no takes_weights, which Engine requires"),
        (object, "the engine has no close"),
    ],
)
def test_what_is_missing_is_named(engine, says):
    with pytest.raises(PluginError, match=says):
        require_members(engine(), Engine, "the engine")


@pytest.mark.parametrize("engine", [Whole, MoreWithDefault])
def test_what_has_everything_passes(engine):
    require_members(engine(), Engine, "the engine")
