"""Rewards: the contract (base), those that come with core (builtin), and the stream that scores samples (runner)."""
