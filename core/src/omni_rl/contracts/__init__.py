"""What crosses a border between core's rooms, plugins and processes: hooks, requests, types, interfaces.

Each name is loaded when it is first asked for, so importing this package imports no torch. A new one is a line of the
stub beside this file.
"""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
