"""What plugins may use of core besides the contracts: re-exports, by what is being written.

``model``, ``engine``, ``data``, ``reward`` and ``tracker``. Importing them imports no torch: each name is loaded when
it is first asked for.
"""
