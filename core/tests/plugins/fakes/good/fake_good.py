"""A model plugin without faults: a module of hooks."""

from omni_rl import hookimpl


@hookimpl
def defaults():
    return {"rollout": {"steps": 4}}


@hookimpl
def predict(x, t):
    return {"x": x["x"] * t}
