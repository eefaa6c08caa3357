"""Rollout engines: who samples."""
