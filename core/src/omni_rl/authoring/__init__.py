"""The names that plugins may import from core besides the contracts, one module per kind of plugin.

The modules are ``model``, ``engine``, ``data``, ``reward`` and ``tracker``. Importing them does not import torch,
because each name is imported when it is first used.
"""
