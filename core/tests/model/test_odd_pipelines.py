"""What some pipelines do otherwise than most, each on the toy with picture and sound: draws that count for nothing,
latents packed after they are given, prompts one at a time, time running the other way.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy_two_streams
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from model_cases import OneWindow, own_loop, still
from test_two_streams import assembled as plain_assembled

from omni_rl.errors import ModelError
from omni_rl.model.loaded import from_pipe, frozen
from omni_rl.testing.assembly import PROMPTS, Assembly, assemble
