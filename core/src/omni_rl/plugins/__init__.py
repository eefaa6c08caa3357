"""Finding, loading, layering and shipping plugins.

``discovery`` reads the metadata of installed distributions, ``local`` loads single files, ``manager`` layers what was
loaded and calls it, ``runspec`` rebuilds the same layers in another process, ``listing`` reports on all of it.
None of these imports torch or, before a run asks for it, a plugin.
"""
