"""``omni-rl conformance``: the suites of :mod:`omni_rl_testing` on what an installed distribution offers.

:mod:`subjects` finds out what there is to test and with which fixtures, :mod:`running` hands it to pytest. Nothing here
imports pytest before a suite runs, so that its absence is told in a sentence.
"""
