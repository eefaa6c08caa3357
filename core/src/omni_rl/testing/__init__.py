"""Contract suites: a plugin's tests are fixtures and inheritance. Needs the extra ``testing`` (pytest).

One module per kind of plugin. Inherit its suite in a test module of your own and supply the fixtures that it names::

    from omni_rl.testing.reward import RewardContract

    class TestSharpness(RewardContract):
        @pytest.fixture
        def reward(self): ...

        @pytest.fixture
        def samples(self): ...
"""

from __future__ import annotations

import pkgutil

import pytest

# A failing suite then shows the values it compared, as a test of the plugin's own would.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
