"""Prompts and input media: reading the user's files."""
