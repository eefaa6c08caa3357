"""Training backends: what updates the policy."""
