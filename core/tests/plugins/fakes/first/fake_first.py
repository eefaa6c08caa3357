"""Written for contract 1."""

import omni_rl.randomness
from omni_rl import hookimpl
from omni_rl.types import Policy, Streams


@hookimpl
def predict(x: Streams, policy: Policy) -> Streams:
    return omni_rl.randomness.randn(0, x)
