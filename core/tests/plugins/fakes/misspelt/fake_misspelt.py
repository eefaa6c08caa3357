"""Marks a function that is no hook."""

from omni_rl import hookimpl


@hookimpl
def predcit(x, t):
    return x
