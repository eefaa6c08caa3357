"""Experiment trackers for omni-rl."""
