"""No tracker sends usage figures from a test, and tests find the module that they share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)
sys.path.insert(0, str(Path(__file__).parent))  # tracked_run
