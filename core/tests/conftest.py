"""Where tests find the modules that they share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # model_cases, toy_two_streams: diffusers imports the latter by name
