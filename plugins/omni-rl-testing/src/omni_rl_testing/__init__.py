"""Contract suites: the tests of a plugin inherit a suite and supply fixtures.

There is one module per kind of plugin. Inherit its suite in your own test module, and supply the fixtures that it
names::

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
    """Let failing checks of the suites show the compared values, as tests of a test module do.

    pytest rewrites the assertions only of modules that are imported after this call, and only if it has started before.
    """
    import pytest

    modules = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    pytest.register_assert_rewrite(*(name for name in modules if name not in sys.modules))


if "pytest" in sys.modules:  # in a test run; the command line imports this package too, and needs no pytest for that
    show_compared_values()
