"""Process groups and decisions that all ranks take together."""
