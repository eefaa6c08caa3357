"""Claims the key of another distribution."""
