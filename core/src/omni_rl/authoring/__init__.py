"""What plugins may use of core besides the contracts: re-exports, by what is being written.

``model``, ``engine``, ``data`` and ``reward``. Importing this package imports no torch.
"""
