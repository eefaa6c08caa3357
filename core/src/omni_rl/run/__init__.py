"""One training run, from the resolved configuration to the report; read ``loop.py`` first."""
