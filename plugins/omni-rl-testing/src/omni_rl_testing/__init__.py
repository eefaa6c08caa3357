"""Contract suites: a plugin's tests are fixtures and inheritance.

One module per kind of plugin. Inherit its suite in a test module of your own and supply the fixtures that it names::

    from omni_rl_testing.reward import RewardContract

    class TestSharpness(RewardContract):
        @pytest.fixture
        def reward(self): ...

        @pytest.fixture
        def samples(self): ...
"""

from __future__ import annotations

import pkgutil
import sys


def show_compared_values() -> None:
    """Let a failing suite show the values it compared, as a test of the plugin's own would.

    pytest rewrites the assertions of modules that are imported after this, and after it has started itself.
    """
    import pytest

    modules = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    pytest.register_assert_rewrite(*(name for name in modules if name not in sys.modules))


if "pytest" in sys.modules:  # in a test run; the command line imports this package too, and needs no pytest for that
    show_compared_values()
