"""Training: the ``torch`` backend, and the policy that algorithms use."""
