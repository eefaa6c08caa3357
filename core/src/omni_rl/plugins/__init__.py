"""Finds, loads, layers and transports plugins.

``discovery`` reads the metadata of installed distributions, ``local`` loads single Python files, ``manager`` builds the
layers of a run and calls their hooks, ``runspec`` rebuilds the same layers in another process, and ``listing`` lists
all plugins. No module here imports torch, and a plugin is imported only when a run needs it.
"""
