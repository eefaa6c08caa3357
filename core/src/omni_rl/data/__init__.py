"""Reads the user's prompt files and input media."""
