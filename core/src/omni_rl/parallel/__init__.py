"""Functions that give the same result on all ranks."""
