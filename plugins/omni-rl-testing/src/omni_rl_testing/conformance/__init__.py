"""``omni-rl conformance``: run the contract suites on the plugins of an installed distribution.

:mod:`subjects` finds the plugins and their fixtures, :mod:`running` passes them to pytest. pytest is imported only when
a suite runs, so that there is a clear error if it is not installed.
"""
