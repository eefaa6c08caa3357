"""The loaded model, the universal adapter, and how they become one set of hooks."""
