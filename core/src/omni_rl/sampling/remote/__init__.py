"""Helpers for engines that sample in other processes."""
