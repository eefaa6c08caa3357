"""Hooks, requests, types and interfaces that core's packages, plugins and processes share.

Each name is imported when it is first used, so importing this package does not import torch. A new name is one line of
the stub ``__init__.pyi`` beside this file.
"""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
