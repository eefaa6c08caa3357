"""Nothing here runs where vLLM-Omni is not installed."""

from importlib import util

collect_ignore_glob = [] if util.find_spec("vllm_omni") else ["test_*.py"]
