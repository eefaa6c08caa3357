"""The gate: a few samples and a table of verdicts with numbers. A run proves itself before it trains."""
