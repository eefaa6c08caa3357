"""Takes the interpreter with it, after printing."""

import os
import sys

print("a library spoke", file=sys.stderr, flush=True)
os._exit(3)
