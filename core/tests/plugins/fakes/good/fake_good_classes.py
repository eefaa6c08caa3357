"""An algorithm with options, and an observer."""

from pydantic import BaseModel

from omni_rl import hookimpl


class Algorithm:
    """Scales rewards."""

    class Config(BaseModel):
        scale: float = 1.0

    def __init__(self, config):
        self.config = config

    @hookimpl
    def compute_advantages(self, rewards):
        return rewards * self.config.scale


class Observer:
    """Remembers what it saw."""

    def __init__(self):
        self.rows = []

    @hookimpl
    def on_iteration_end(self, row):
        self.rows.append(row)
